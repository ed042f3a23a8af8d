//! A model of a hub in the library: loaded by its name. The hub is one that the test plays.

use crate::play_hub::{PlayHub, Trouble};
use ingot::hub::{HubError, HubSettings};
use ingot::{DeviceChoice, Error, GenerateOptions, LoadOptions, Model};
use ingot_tests::shared::root;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[test]
fn a_model_is_loaded_by_its_name_on_the_hub() {
    let hub = PlayHub::of_folder(&root().join("models/ingot-tales-1m"));
    let folder = tempfile::tempdir().expect("there is room");
    let settings = HubSettings {
        endpoint: hub.endpoint.clone(),
        token: None,
        cache: folder.path().to_path_buf(),
        offline: false,
        timeout: Duration::from_secs(10),
        retry_wait: Duration::from_millis(1),
    };
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let options = |offline| LoadOptions {
        device: DeviceChoice::Cpu,
        hub: Some(HubSettings { offline, ..settings.clone() }),
        ..LoadOptions::default()
    };
    let first = LoadOptions {
        progress: Some(Box::new(move |done, total| heard.lock().expect("no panic").push((done, total)))),
        ..options(false)
    };
    let mut model = Model::load("owner/tiny".as_ref(), first).expect("the hub answers");
    let answer = |model: &mut Model| {
        let prompt = model.chat_prompt("Tell me a story.").expect("a template");
        model.generate(&prompt, &GenerateOptions { max_tokens: 5, ..GenerateOptions::default() }, |_| true)
    };
    let text = answer(&mut model).expect("it runs").text;
    let told = told.lock().expect("no panic");
    assert!(told.iter().any(|(done, total)| done == total && *total > 1_000_000), "{told:?}");
    hub.seen();
    let mut again = Model::load("owner/tiny".as_ref(), options(true)).expect("it is there");
    assert_eq!((answer(&mut again).expect("it runs").text, hub.seen().len()), (text, 0));

    hub.trouble("/api/models", 1, Trouble::Status(401, &[]));
    let refused = Model::load(Path::new("owner/tiny@v2"), options(false)).err().expect("there is none");
    assert!(matches!(refused, Error::Model(ingot_models::Error::Hub(HubError::NotFound { .. }))), "{refused:?}");
}
