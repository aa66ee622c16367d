//! cdc
