//! GGUF files of a hub: which one is meant, that it comes alone, and how it leaves the cache.

use crate::hub::{Scene, WEIGHTS, scene_of};
use crate::play_hub::{COMMIT, PlayHub};
use ingot_models::hub::{HubError, find, remove};

const FILES: [(&str, &[u8]); 6] = [
    ("README.md", b"not needed"),
    ("config.json", b"{}"),
    ("mmproj-F16.gguf", b"eyes"),
    ("tiny.Q2_K.gguf", b"two bits"),
    ("tiny.Q4_K_M.gguf", b"four bits"),
    ("tiny.Q8_0.gguf", b"eight bits"),
];

fn scene() -> Scene {
    scene_of(PlayHub::start(&FILES))
}

fn names_in(scene: &Scene, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(scene.home().join(folder)).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[test]
fn one_file_comes_alone() {
    let mut scene = scene();
    let snapshot = format!("snapshots/{COMMIT}");
    // The one that is named, in letters of any case; the usual one where none is.
    for (id, name) in [("owner/tiny:q8_0@main", "tiny.Q8_0.gguf"), ("owner/tiny", "tiny.Q4_K_M.gguf")] {
        let fetched = scene.fetch_as(id).expect("the hub answers");
        assert_eq!(fetched.model, fetched.folder.join(name));
        let expected = FILES.iter().find(|(known, _)| *known == name).expect("a file").1;
        assert_eq!(std::fs::read(&fetched.model).expect("a file"), expected);
    }
    assert_eq!(names_in(&scene, &snapshot), ["tiny.Q4_K_M.gguf", "tiny.Q8_0.gguf"]);
    scene.hub.seen();
    scene.fetch_as(&format!("owner/tiny:Q8_0@{COMMIT}")).expect("it is there");
    assert_eq!(scene.hub.seen(), [], "a commit never changes");
    scene.settings.offline = true;
    for (id, name) in [("owner/tiny:Q8_0", "tiny.Q8_0.gguf"), ("owner/tiny", "tiny.Q4_K_M.gguf")] {
        assert!(scene.fetch_as(id).expect("it is there").model.ends_with(name));
    }
    assert!(matches!(scene.fetch_as("owner/tiny:Q2_K"), Err(HubError::NotCached { .. })));
    assert_eq!(scene.hub.seen(), []);
}

#[test]
fn a_checkpoint_is_preferred_unless_a_file_is_named() {
    let files = [&FILES[..], &[(WEIGHTS, b"weights")]].concat();
    let scene = scene_of(PlayHub::start(&files));
    let fetched = scene.fetch_as("owner/tiny").expect("the hub answers");
    assert!(fetched.model == fetched.folder && !fetched.folder.join("tiny.Q4_K_M.gguf").exists());
    assert!(scene.fetch_as("owner/tiny:Q2_K").expect("the hub answers").model.ends_with("tiny.Q2_K.gguf"));
}

#[test]
fn a_file_that_is_not_there_is_told_with_those_that_are() {
    let scene = scene();
    let message = scene.fetch_as("owner/tiny:Q5_0").expect_err("there is none").to_string();
    for part in ["owner/tiny", "no GGUF file Q5_0", "tiny.Q2_K.gguf, tiny.Q4_K_M.gguf, tiny.Q8_0.gguf"] {
        assert!(message.contains(part) && !message.contains("mmproj"), "{part:?} is not in {message:?}");
    }
    assert_eq!(scene.hub.seen().len(), 1, "nothing is fetched");
}

#[test]
fn a_file_is_removed_alone_and_the_last_one_with_all() {
    let scene = scene();
    let id = |text: &str| text.parse().expect("a name");
    scene.fetch_as("owner/tiny:Q2_K").expect("the hub answers");
    scene.fetch_as("owner/tiny:Q8_0").expect("the hub answers");
    assert_eq!(find(&id("owner/tiny:Q2_K"), &scene.settings).expect("it is there").snapshots.len(), 1);
    assert!(matches!(find(&id("owner/tiny:Q4_K_M"), &scene.settings), Err(HubError::NotListed { .. })));
    assert_eq!(remove(&id("owner/tiny:Q2_K"), &scene.settings).expect("it is there"), b"two bits".len() as u64);
    assert_eq!(names_in(&scene, "blobs"), [scene.hub.etag("tiny.Q8_0.gguf")]);
    assert!(matches!(remove(&id("owner/tiny:Q2_K"), &scene.settings), Err(HubError::NotListed { .. })));
    remove(&id("owner/tiny:Q8_0"), &scene.settings).expect("it is there");
    assert!(!scene.home().exists());
}
