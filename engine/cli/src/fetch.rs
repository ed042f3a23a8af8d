//! Fetching a hub's model, with a bar.

use crate::args::HubArgs;
use crate::{interrupt, progress};
use anyhow::{Context, Result};
use ingot::hub::{self, HubError, HubSettings, ModelId};
use std::io::Write;
use std::path::PathBuf;

/// The settings of the environment and of the command line.
pub(crate) fn settings(args: &HubArgs) -> Result<HubSettings> {
    let settings = HubSettings::from_env()?;
    Ok(HubSettings { offline: settings.offline || args.offline, ..settings })
}

/// The folder or GGUF file in the cache of a hub's model, which is fetched if it is not there.
pub(crate) fn fetch(id: &ModelId, args: &HubArgs) -> Result<PathBuf> {
    let settings = settings(args)?;
    let mut bar = progress::bar("fetching");
    let mut installed = Ok(());
    let fetched = hub::fetch(id, &settings, &mut |now| {
        // Until bytes come there is nothing that the first Ctrl-C should leave in order.
        installed = interrupt::install();
        if let Some(bar) = &mut bar {
            bar(now.done_bytes, now.total_bytes);
        }
        installed.is_ok() && !interrupt::pressed()
    });
    drop(bar);
    installed?;
    interrupt::release();
    let fetched = match fetched {
        Err(error @ HubError::NotFound { .. }) if !id.has_revision() => {
            return Err(error)
                .with_context(|| format!("there is no file or folder {id}, so it was looked for on the hub"));
        }
        fetched => fetched?,
    };
    if let Some(error) = fetched.stale {
        // Nothing is left to do if that fails.
        let _ = writeln!(std::io::stderr(), "note: the copy in the cache is used, since {error}");
    }
    Ok(fetched.model)
}
