"""Who calls, and what they may: users, groups, API keys, roles and scopes."""
