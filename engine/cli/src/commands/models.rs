//! `ingot models`: what is in the hub's cache.

use crate::args::HubArgs;
use crate::{fetch, output};
use anyhow::Result;
use clap::{Args, Subcommand};
use ingot::Bytes;
use ingot::hub::{self, CachedModel, CachedSnapshot, HubSettings, ModelId};
use ingot::ir::memory::counted;
use serde_json::{Value, json};

/// Flags of `ingot models`.
#[derive(Args)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the models in the hub's cache: size, format, and whether Ingot runs them
    List {
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Tell all about one of them
    Show {
        /// owner/name[:QUANT][@revision]
        model: ModelId,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Remove models from the cache; with @revision that revision alone, with :QUANT a GGUF file
    Rm {
        /// owner/name[:QUANT][@revision]
        #[arg(required = true)]
        models: Vec<ModelId>,
        /// Print one JSON object a model
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub(crate) fn run(args: &ModelsArgs) -> Result<()> {
    let settings = fetch::settings(&HubArgs { offline: true })?;
    match &args.action {
        Action::List { json } => list(&settings, *json),
        Action::Show { model, json } => show(&hub::find(model, &settings)?, *json),
        Action::Rm { models, json } => models.iter().try_for_each(|id| {
            let freed = hub::remove(id, &settings)?;
            if *json {
                return output::println(&json!({ "model": id.to_string(), "freed_bytes": freed }).to_string());
            }
            output::println(&format!("{id} removed, {} freed", Bytes(freed)))
        }),
    }
}

fn list(settings: &HubSettings, json: bool) -> Result<()> {
    let models = hub::list(settings)?;
    if json {
        return output::println(&Value::Array(models.iter().map(object).collect()).to_string());
    }
    let width = models.iter().map(|model| model.id.to_string().len()).max().unwrap_or(0);
    for model in &models {
        let (format, runs) = match newest(model) {
            Some(snapshot) => {
                let verdict = hub::judge(&snapshot.model(&model.id));
                (verdict.format, verdict.runs.unwrap_or_else(|why| format!("does not run: {why}")))
            }
            None => ("unknown".into(), "does not run: nothing of it has been fetched whole".into()),
        };
        let size = Bytes(model.n_bytes).to_string();
        output::println(&format!("{:<width$}  {size:>10}  {format:<10}  {runs}", model.id.to_string()))?;
    }
    let total = models.iter().map(|model| model.n_bytes).sum();
    output::println(&format!(
        "{}, {} in {}",
        counted(models.len() as u64, "model"),
        Bytes(total),
        settings.cache.display()
    ))
}

/// The revision that a run without `@revision` takes, else any.
fn newest(model: &CachedModel) -> Option<&CachedSnapshot> {
    let main = model.snapshots.iter().find(|snapshot| snapshot.names.iter().any(|name| name == "main"));
    main.or(model.snapshots.last())
}

fn show(model: &CachedModel, json: bool) -> Result<()> {
    if json {
        return output::println(&object(model).to_string());
    }
    let mut lines = vec![format!("{}  {} in {}", model.id.repo(), Bytes(model.n_bytes), model.folder.display())];
    for snapshot in &model.snapshots {
        let verdict = hub::judge(&snapshot.model(&model.id));
        let runs = match verdict.runs {
            Ok(architecture) => format!("runs (architecture {architecture})"),
            Err(why) => format!("does not run: {why}"),
        };
        let names = if snapshot.names.is_empty() { "no name".into() } else { snapshot.names.join(", ") };
        lines.push(format!("\n{} ({names})", snapshot.commit));
        lines.push(format!("  {}, {}, {runs}", Bytes(snapshot.n_bytes()), verdict.format));
        for (name, n_bytes) in &snapshot.files {
            lines.push(format!("  {:>10}  {name}", Bytes(*n_bytes).to_string()));
        }
    }
    output::println(&lines.join("\n"))
}

fn object(model: &CachedModel) -> Value {
    let snapshot = |snapshot: &CachedSnapshot| {
        let verdict = hub::judge(&snapshot.model(&model.id));
        let files = snapshot.files.iter().map(|(name, n_bytes)| json!({ "name": name, "bytes": n_bytes }));
        json!({
            "commit": snapshot.commit,
            "names": snapshot.names,
            "folder": snapshot.folder.display().to_string(),
            "bytes": snapshot.n_bytes(),
            "format": verdict.format,
            "runs": verdict.runs.is_ok(),
            "architecture": verdict.runs.as_ref().ok(),
            "why_not": verdict.runs.as_ref().err(),
            "files": files.collect::<Vec<_>>(),
        })
    };
    json!({
        "model": model.id.repo(),
        "bytes": model.n_bytes,
        "folder": model.folder.display().to_string(),
        "snapshots": model.snapshots.iter().map(snapshot).collect::<Vec<_>>(),
    })
}
