//! Paths of entries, and which collide.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use em_core::names::{Meeting, Names, check, fold};
use proptest::prelude::*;

fn names(paths: &[&str]) -> Names {
    let mut names = Names::default();
    for path in paths {
        assert_eq!(names.meet(path).unwrap(), Meeting::Free, "{path}");
        names.insert(path);
    }
    names
}

#[test]
fn names_of_any_first_character_collide() {
    let names = names(&["é/日本", "日本/é", "\u{1f600}", "a/b", "é/x"]);
    for path in ["e\u{301}/日本", "É/y", "A/b", "A", "a/B/c"] {
        assert!(names.meet(path).is_err(), "{path}");
    }
    assert_eq!(names.meet("日本").unwrap(), Meeting::Above);
    assert_eq!(names.meet("a/b/c").unwrap(), Meeting::Below("a/b".into()));
    assert_eq!(names.meet("a/b").unwrap(), Meeting::Same);
}

#[test]
fn neighbours_are_found_among_names_that_sort_between() {
    let names = names(&["a", "a b", "a!", "A-/x", "ab/c", "a\u{1}", "\u{200b}/x"]);
    assert_eq!(names.meet("a/z").unwrap(), Meeting::Below("a".into()));
    assert_eq!(names.meet("ab").unwrap(), Meeting::Above);
    assert!(names.meet("a-").is_err());
    assert!(names.meet("\u{200c}/y").is_err(), "both fold to nothing");
    assert_eq!(names.meet("b").unwrap(), Meeting::Free);
}

#[test]
fn unsafe_paths_are_refused() {
    let long = "x".repeat(256);
    let deep = "x/".repeat(2048) + "x";
    for path in ["", "/", "/a", "a/", "a//b", ".", "..", "./a", "a/.", "a/../b", "a\0b", &long, &deep] {
        assert!(check(path).is_err(), "{path:?}");
    }
    for path in [".artifact", ".artifact/x", ".ARTIFACT/x", ".Artifact", ".arti\u{200d}fact/x"] {
        assert!(check(path).is_err(), "{path:?}");
    }
}

#[test]
fn ordinary_paths_are_accepted() {
    let component = "x".repeat(255);
    let deep = "x/".repeat(2047) + "xx";
    for path in ["a", "a/.artifact", ".artifacts", "...", "a\nb", "a\\b", "größe", &component, &deep] {
        assert!(check(path).is_ok(), "{path:?}");
    }
}

#[test]
fn control_characters_are_escaped_in_errors() {
    assert!(!check("a\n\u{1b}[31m/..").unwrap_err().to_string().contains(['\n', '\u{1b}']));
}

#[test]
fn a_collision_names_both_paths() {
    let message = names(&["Data/one"]).meet("data/two").unwrap_err().message;
    assert!(message.contains("data/two") && message.contains("Data/one"), "{message}");
}

#[test]
fn names_that_differ_by_case_only_fold_equally() {
    for (one, other) in [("É", "e\u{301}"), ("\u{212a}", "k"), ("Å", "\u{212b}"), ("ẞ", "ß"), ("ΑΣ", "ας")] {
        assert_eq!(fold(one), fold(other), "{one} {other}");
    }
}

#[test]
fn a_sigma_folds_equally_wherever_it_stands() {
    for (one, other) in [("ΑΣ", "ασ"), ("ας", "ασ"), ("ΑΣ/x", "ασ/x")] {
        assert_eq!(fold(one), fold(other), "{one} {other}");
    }
}

#[test]
fn unicode_full_case_folding() {
    for (one, other) in [("straße", "STRASSE"), ("ſ", "s"), ("µ", "μ"), ("ﬁ", "fi")] {
        assert_eq!(fold(one), fold(other), "{one} {other}");
    }
}

#[test]
fn every_character_folds_like_its_upper_and_lower_case_and_once() {
    for c in '\0'..=char::MAX {
        let (name, folded) = (c.to_string(), fold(&c.to_string()));
        assert_eq!(fold(&folded), folded, "{c:?}");
        assert_eq!(fold(&name.to_lowercase()), folded, "{c:?}");
        assert_eq!(fold(&name.to_uppercase()), folded, "{c:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn folding_twice_is_folding_once(name in "\\PC{0,8}") {
        prop_assert_eq!(fold(&fold(&name)), fold(&name));
    }

    #[test]
    fn both_cases_and_both_normal_forms_fold_equally(name in "\\PC{0,6}") {
        use unicode_normalization::UnicodeNormalization;
        prop_assert_eq!(fold(&name.nfd().collect::<String>()), fold(&name));
        prop_assert_eq!(fold(&name.to_lowercase()), fold(&name));
    }
}

#[test]
fn names_that_windows_refuses_are_told() {
    for path in
        ["con", "a/NUL.txt", "com1", "LPT9.log", "a./b", "a ", "a:b", "what?", "back\\slash", "line\nend", "COM¹.txt"]
    {
        assert!(em_core::names::is_reserved_on_windows(path), "{path:?}");
    }
    for path in ["console", "com0", "com10", "a.b/c", ".hidden", "größe", "del\u{7f}"] {
        assert!(!em_core::names::is_reserved_on_windows(path), "{path:?}");
    }
}
