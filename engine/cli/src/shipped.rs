//! Which model is meant: a path, one that comes with Ingot, or one of a hub.

use crate::args::HubArgs;
use crate::fetch;
use anyhow::{Result, anyhow, bail};
use std::path::{Path, PathBuf};

/// The model that runs when none is named.
pub(crate) const DEFAULT_MODEL: &str = "ingot-tales-14m";

/// All that come with Ingot.
const SHIPPED: &str = "ingot-tales-14m, ingot-tales-1m";

/// The folder or file of `--model`: as given if it exists, else a shipped model of that name, or a hub's model, which is
/// fetched.
pub(crate) fn folder(asked: Option<&Path>, hub: &HubArgs) -> Result<PathBuf> {
    if let Some(path) = asked {
        if let Some(id) = ingot::hub::id_of(path) {
            return fetch::fetch(&id, hub);
        }
        let is_name = path.components().count() == 1 && !path.exists();
        let shipped = if is_name { find(path) } else { None };
        if is_name && shipped.is_none() {
            let name = path.display();
            bail!(
                "{name} is no file or folder here and no shipped model ({SHIPPED}); models of the hub are owner/name"
            );
        }
        // A path that does not exist is named by the error of opening it.
        return Ok(shipped.unwrap_or_else(|| path.to_owned()));
    }
    find(Path::new(DEFAULT_MODEL)).ok_or_else(|| {
        let places: Vec<_> = places().iter().map(|place| place.display().to_string()).collect();
        anyhow!("the shipped model {DEFAULT_MODEL} is not in {}; name a folder with --model", places.join(" or "))
    })
}

fn find(name: &Path) -> Option<PathBuf> {
    places().into_iter().map(|place| place.join(name)).find(|folder| folder.join("config.json").is_file())
}

/// The repository that this program was built in, then beside the program as it is installed.
fn places() -> Vec<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(|root| root.join("models"));
    let exe = std::env::current_exe().ok();
    let beside = exe.as_deref().and_then(Path::parent);
    let share = beside.and_then(Path::parent).map(|prefix| prefix.join("share/ingot/models"));
    repository.into_iter().chain(share).chain(beside.map(|folder| folder.join("models"))).collect()
}
