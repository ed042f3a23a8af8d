//! Which files of a repository Ingot reads.

use super::client::{Listing, RemoteFile};
use super::{HubError, ModelId};

/// The GGUF file that is meant where none is named, as llama.cpp has it, if there is one.
const DEFAULT_QUANT: &str = "Q4_K_M";

/// The files of a model.
pub(super) struct Needed<'a> {
    /// The small ones, which come first, so that what is wrong with a model is known before its weights are fetched, and
    /// the weights.
    pub(super) files: [Vec<&'a RemoteFile>; 2],
    /// The one that is opened; `None` for their folder.
    pub(super) model: Option<&'a str>,
}

/// What is needed of a repository: a checkpoint, or a GGUF file.
pub(super) fn of<'a>(id: &ModelId, listing: &'a Listing) -> Result<Needed<'a>, HubError> {
    let is_weights = |name: &str| name.starts_with("model") && name.ends_with(".safetensors");
    let is_small = |name: &str| name.ends_with(".json") || name.ends_with(".jinja");
    let names = || listing.files.iter().map(|file| file.name.as_str());
    let lacks = if !names().any(|name| name == "config.json") {
        Some("config.json")
    } else if !names().any(is_weights) {
        Some("model*.safetensors")
    } else {
        None
    };
    if id.quant().is_some() || lacks.is_some() {
        if let Some(name) = gguf(id.quant(), names()) {
            let file = listing.files.iter().filter(|file| file.name == name).collect();
            return Ok(Needed { files: [Vec::new(), file], model: Some(name) });
        }
        if id.quant().is_some() {
            let found: Vec<&str> = names().filter(|name| is_gguf(name)).collect();
            return Err(HubError::NoQuant { id: id.clone(), found: found.join(", ") });
        }
    }
    if let Some(lacks) = lacks {
        let ends = [".gguf", ".bin", ".pth", ".pt", ".safetensors", ".onnx", ".npz"];
        let found: Vec<&str> = names().filter(|name| ends.iter().any(|end| name.ends_with(end))).take(4).collect();
        return Err(HubError::NoCheckpoint { id: id.clone(), lacks, found: found.join(", ") });
    }
    let chosen = |small: bool| {
        let wanted = move |name: &str| if small { is_small(name) } else { is_weights(name) };
        // Folders inside a repository hold other forms of the model.
        listing.files.iter().filter(move |file| !file.name.contains(['/', '\\']) && wanted(&file.name)).collect()
    };
    Ok(Needed { files: [chosen(true), chosen(false)], model: None })
}

/// The GGUF file that is meant: of this quantization, and where none is named of the usual one, else the first.
pub(super) fn gguf<'a>(quant: Option<&str>, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let names: Vec<&str> = names.filter(|name| is_gguf(name)).collect();
    let found = names.iter().find(|name| has_quant(name, quant.unwrap_or(DEFAULT_QUANT)));
    found.or(names.first().filter(|_| quant.is_none())).copied()
}

/// Whether the GGUF file is the one that is meant where none is named, whatever else the repository has.
pub(super) fn is_usual(name: &str) -> bool {
    has_quant(name, DEFAULT_QUANT)
}

/// A model in one file; neither a part of one nor what sees for one (`mmproj`).
pub(super) fn is_gguf(name: &str) -> bool {
    let stem = name.strip_suffix(".gguf");
    stem.is_some_and(|stem| !stem.contains(['/', '\\']) && !is_part(stem) && !stem.contains("mmproj"))
}

/// Whether a name ends as one of several parts does, in `-00001-of-00002`.
fn is_part(stem: &str) -> bool {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let has_number = |before: &str| before.rsplit_once('-').is_some_and(|(_, ix)| is_number(ix));
    stem.rsplit_once("-of-").is_some_and(|(before, n)| has_number(before) && is_number(n))
}

/// Whether a file's name has this part, in letters of any case: `Q4_K` is no part of `tiny.Q4_K_M.gguf`, nor of `tiny-IQ4_K.gguf`.
fn has_quant(name: &str, quant: &str) -> bool {
    let (name, quant) = (name.to_ascii_uppercase(), quant.to_ascii_uppercase());
    let is_whole = |at: usize| {
        let (before, after) = (&name[..at], &name[at + quant.len()..]);
        (before.is_empty() || before.ends_with(['-', '.', '_'])) && after.starts_with(['-', '.'])
    };
    name.match_indices(&quant).any(|(at, _)| is_whole(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantizations_are_whole_parts_of_names() {
        let names = ["mmproj-F16.gguf", "t-IQ4_K.gguf", "t-Q8_0.gguf", "t-Q4_K_M.gguf", "t_q4_k.gguf", "x/t-Q2_K.gguf"];
        let of = |quant| gguf(quant, names.into_iter());
        assert_eq!(of(None), Some("t-Q4_K_M.gguf"));
        assert_eq!(of(Some("q4_k")), Some("t_q4_k.gguf"));
        assert_eq!(of(Some("Q8_0")), Some("t-Q8_0.gguf"));
        for absent in ["Q2_K", "F16", "Q4", "Q5_0"] {
            assert_eq!(of(Some(absent)), None, "{absent}");
        }
        assert_eq!(gguf(None, ["b.Q8_0.gguf", "b.Q2_K.gguf"].into_iter()), Some("b.Q8_0.gguf"));
    }

    #[test]
    fn parts_are_no_models_and_are_told_by_their_numbers() {
        assert_eq!(gguf(None, ["b-00001-of-00002.gguf", "b.bin"].into_iter()), None);
        for name in ["Lord-of-Code-Q4_K_M.gguf", "b-1-of-00002.gguf", "b-00001-of-2.gguf", "-of-00002.gguf"] {
            assert_eq!(gguf(None, [name].into_iter()), Some(name));
        }
    }
}
