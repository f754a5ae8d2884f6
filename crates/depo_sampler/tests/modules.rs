//! The crate's modules import one another in one direction.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

/// Top-level modules that a text names as `crate::module`.
fn imports(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.split("crate::").skip(1).filter_map(|rest| {
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_')?;
        rest[end..].starts_with("::").then_some(&rest[..end])
    })
}

/// Module -> modules that it imports.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.ends_with("lib.rs") && !file.ends_with("tests.rs"))
    {
        let place = file.strip_prefix(&root).unwrap();
        let first = place.components().next().unwrap().as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(file).unwrap();
        let named = imports(&text).filter(|&name| name != module).map(str::to_owned);
        arrows.entry(module.clone()).or_default().extend(named);
    }
    arrows
}

#[test]
fn no_modules_import_one_another_in_a_circle() {
    let mut left = arrows();
    assert!(left.len() > 8, "the sources were not found");
    while !left.is_empty() {
        let free: Vec<String> = left
            .iter()
            .filter(|(_, imported)| imported.iter().all(|name| !left.contains_key(name)))
            .map(|(module, _)| module.clone())
            .collect();
        assert!(!free.is_empty(), "these modules import one another in a circle: {left:?}");
        for module in free {
            left.remove(&module);
        }
    }
}

#[test]
fn beliefs_and_rules_see_no_settings_but_their_own() {
    let arrows = arrows();
    for module in ["error", "registry", "belief", "rules"] {
        assert!(!arrows[module].contains("settings"), "{module} imports settings");
    }
    assert!(!arrows["belief"].contains("rules"));
}
