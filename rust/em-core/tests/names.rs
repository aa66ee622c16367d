//! Paths of entries, and which collide.

use em_core::names::Collisions;

#[test]
fn collisions_of_names_of_any_first_character() {
    let mut collisions = Collisions::default();
    for path in ["é/日本", "日本/é", "\u{1f600}", "a/b", "é/x"] {
        assert!(collisions.insert(path, true).is_ok(), "{path}");
    }
    for path in ["e\u{301}/日本", "É/y", "日本", "A/b", "a/b/c"] {
        assert!(collisions.insert(path, true).is_err(), "{path}");
    }
}
