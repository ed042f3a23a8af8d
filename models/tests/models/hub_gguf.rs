//! GGUF files of a hub: which one is meant, that it comes alone, and how it leaves the cache.

use crate::hub::{Scene, WEIGHTS, scene_of};
use crate::play_hub::{COMMIT, PlayHub};
use ingot_models::hub::{HubError, ModelId, find, list, remove};

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
fn offline_a_name_means_the_only_file_and_none_of_several() {
    let mut scene = scene();
    scene.fetch_as("owner/tiny:Q2_K").expect("the hub answers");
    scene.settings.offline = true;
    assert!(scene.fetch().expect("it is there").model.ends_with("tiny.Q2_K.gguf"));
    scene.settings.offline = false;
    scene.fetch_as("owner/tiny:Q8_0").expect("the hub answers");
    scene.settings.offline = true;
    let error = scene.fetch().expect_err("online it is one of two, or another");
    assert!(matches!(error, HubError::NotCached { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("tiny.Q2_K.gguf") && message.contains("tiny.Q8_0.gguf) as owner/tiny:QUANT"), "{message}");
    assert!(scene.fetch_as("owner/tiny:Q2_K").expect("it is there").model.ends_with("tiny.Q2_K.gguf"));
}

#[test]
fn what_a_name_means_of_a_snapshot_is_a_model() {
    let scene = scene();
    let folder = scene.fetch_as("owner/tiny:Q8_0").expect("the hub answers").folder;
    // As a Python tool leaves it that fetches everything but the larger files.
    for (name, bytes) in FILES.iter().filter(|(name, _)| !name.contains(".Q")) {
        std::fs::write(folder.join(name), bytes).expect("there is room");
    }
    let model = |name: &str| {
        let id: ModelId = name.parse().expect("a name");
        find(&id, &scene.settings).expect("it is there").snapshots[0].model(&id)
    };
    assert_eq!(model("owner/tiny"), folder.join("tiny.Q8_0.gguf"));
    std::fs::write(folder.join("tiny.Q2_K.gguf"), "two bits").expect("there is room");
    assert_eq!(model("owner/tiny:q8_0"), folder.join("tiny.Q8_0.gguf"));
    std::fs::write(folder.join("tiny.Q4_K_M.gguf"), "four bits").expect("there is room");
    assert_eq!(model("owner/tiny"), folder.join("tiny.Q4_K_M.gguf"));
    std::fs::write(folder.join(WEIGHTS), "weights").expect("there is room");
    assert_eq!(model("owner/tiny"), folder);
}

#[test]
fn a_file_that_is_not_there_is_told_with_those_that_are() {
    let scene = scene();
    let message = scene.fetch_as("owner/tiny:Q5_0").expect_err("there is none").to_string();
    for part in ["owner/tiny", "no GGUF file Q5_0 in one part", "tiny.Q2_K.gguf, tiny.Q4_K_M.gguf, tiny.Q8_0.gguf"] {
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

#[test]
fn who_removes_a_file_keeps_what_has_arrived_of_others() {
    let scene = scene();
    let id = |text: &str| text.parse().expect("a name");
    scene.fetch_as("owner/tiny:Q2_K").expect("the hub answers");
    scene.fetch_as("owner/tiny:Q4_K_M").expect("the hub answers");
    let part = scene.blob("tiny.Q8_0.gguf").with_extension("incomplete");
    std::fs::write(&part, "eight").expect("there is room");
    // Beside another file, and as the last one.
    for (name, n_snapshots) in [("owner/tiny:Q4_K_M", 1), ("owner/tiny:Q2_K", 0)] {
        remove(&id(name), &scene.settings).expect("it is there");
        assert!(part.is_file(), "{name}");
        let models = list(&scene.settings).expect("a cache");
        assert_eq!((models.len(), models[0].snapshots.len()), (1, n_snapshots), "{name}");
    }
    scene.hub.seen();
    scene.fetch_as("owner/tiny:Q8_0").expect("the rest comes");
    assert_eq!(scene.ranges(), ["bytes=5-"]);
    std::fs::write(&part, "eight").expect("there is room");
    remove(&id("owner/tiny"), &scene.settings).expect("it is there");
    assert!(!scene.home().exists(), "all of a model are its parts too");
}
