//! Paths of entries, and which collide.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use em_core::{
    Result,
    names::{Sorted, check, fold},
};
use proptest::prelude::*;

/// Whether paths, sorted here, fit together; and the numbers of those that give way.
fn sorted(paths: &[&str], is_directory: impl Fn(&str) -> bool) -> Result<Vec<u64>> {
    let mut paths = paths.to_vec();
    paths.sort_unstable();
    let (mut sorted, mut given_way) = (Sorted::default(), Vec::new());
    for path in &paths {
        sorted.push(path, is_directory(path), |number| given_way.push(number))?;
    }
    if let Some(mut suspects) = sorted.finish() {
        paths.iter().try_for_each(|path| suspects.push(path))?;
    }
    Ok(given_way)
}

fn fit(paths: &[&str]) -> bool {
    sorted(paths, |_| false).is_ok()
}

#[test]
fn names_of_any_first_character_collide() {
    let names = ["é/日本", "日本/é", "\u{1f600}", "a/b", "é/x"];
    assert!(fit(&names));
    for path in ["e\u{301}/日本", "É/y", "A/b", "A", "a/B/c", "日本", "a/b/c", "a/b"] {
        assert!(!fit(&[&names[..], &[path]].concat()), "{path}");
    }
}

#[test]
fn others_are_found_among_names_that_sort_between() {
    let names = ["a", "a b", "a!", "A-/x", "ab/c", "a\u{1}", "\u{200b}/x"];
    assert!(fit(&names));
    for path in ["a/z", "ab", "a-", "\u{200c}/y", "A/z/z"] {
        assert!(!fit(&[&names[..], &[path]].concat()), "{path}");
    }
    assert!(fit(&[&names[..], &["b"]].concat()));
}

#[test]
fn names_of_other_directories_do_not_collide() {
    assert!(fit(&["A/x", "B/X", "X", "c/x/X", "c/y/x"]));
    assert!(!fit(&["c/x/X", "c/y/x", "c/x/x"]));
}

#[test]
fn empty_directories_give_way_once_each() {
    let is_directory = |path: &str| path.len() == 1;
    assert_eq!(sorted(&["a", "a-b", "a/x", "a/y", "b", "c", "c/z/z"], is_directory).unwrap(), [0, 5]);
    assert!(sorted(&["a", "A/x"], is_directory).is_err());
}

#[test]
fn paths_that_are_not_sorted_are_refused() {
    let mut sorted = Sorted::default();
    sorted.push("b", false, |_| ()).unwrap();
    assert!(sorted.push("a", false, |_| ()).is_err());
    assert!(sorted.push("b", false, |_| ()).is_err());
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
    let message = sorted(&["Data/one", "data/two"], |_| false).unwrap_err().message;
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
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    /// Against all pairs, compared in full.
    #[test]
    fn what_fits_is_what_no_two_paths_forbid(
        paths in prop::collection::btree_set("[aAb!](/[aAb!é-]){0,2}", 0..7),
        directories in any::<u8>(),
    ) {
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let is_directory = |path: &str| {
            paths.iter().position(|other| *other == path).is_some_and(|at| directories >> at & 1 == 1)
        };
        let mut forbidden = false;
        let mut given_way = Vec::new();
        for (number, one) in paths.iter().enumerate() {
            for other in paths.iter().filter(|other| *other != one) {
                let parts: (Vec<&str>, Vec<&str>) = (one.split('/').collect(), other.split('/').collect());
                let shared = parts.0.iter().zip(&parts.1).take_while(|(a, b)| a == b).count();
                let folded = parts.0.iter().zip(&parts.1).take_while(|(a, b)| fold(a) == fold(b)).count();
                let is_above = shared == parts.0.len();
                forbidden |= folded > shared || is_above && !is_directory(one);
                if is_above && is_directory(one) && !given_way.contains(&(number as u64)) {
                    given_way.push(number as u64);
                }
            }
        }
        let found = sorted(&paths, is_directory);
        prop_assert_eq!(found.is_err(), forbidden, "{:?}", found);
        if let Ok(mut found) = found {
            found.sort_unstable();
            prop_assert_eq!(found, given_way);
        }
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
