//! Completions and manual pages: they know every subcommand.

use super::{fail, ingot, succeed};

const SUBCOMMANDS: [&str; 15] = [
    "generate",
    "chat",
    "logits",
    "devices",
    "explain",
    "compile",
    "inspect",
    "models",
    "cache",
    "tune",
    "doctor",
    "profile",
    "bench",
    "completions",
    "man",
];

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = succeed(ingot(&["completions", shell]));
        for word in SUBCOMMANDS {
            assert!(script.contains(word), "{shell}: {word}");
        }
        assert!(script.contains("json-schema"), "{shell}");
    }
    fail(ingot(&["completions", "dos"]), 2, &["dos"]);
}

#[cfg(unix)]
#[test]
fn bash_completes_a_subcommand_and_a_flag() {
    let script = succeed(ingot(&["completions", "bash"]));
    let asked = format!(
        "{script}\nfor words in 'ingot ge' 'ingot generate --json-s' 'ingot models r'; do COMP_WORDS=($words); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
         _ingot ingot \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[@]}}\"; done"
    );
    let output = std::process::Command::new("bash").args(["-c", &asked]).output().unwrap();
    assert_eq!(super::text(&output.stdout), "generate\n--json-schema\nrm\n", "{}", super::text(&output.stderr));
}

#[test]
fn manual_pages_of_the_program_and_its_subcommands() {
    let page = succeed(ingot(&["man"]));
    assert!(page.contains(".TH ingot 1") && page.contains("ingot\\-generate(1)"), "{page}");
    let page = succeed(ingot(&["man", "models", "rm"]));
    assert!(page.contains(".TH ingot-models-rm 1") || page.contains(".TH ingot\\-models\\-rm 1"), "{page}");
    assert!(page.contains("owner/name"), "{page}");
    fail(ingot(&["man", "models", "sing"]), 1, &["`sing`", "ingot-models"]);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("man1");
    succeed(ingot(&["man", "-o", target.to_str().unwrap()]));
    for word in SUBCOMMANDS {
        let page = std::fs::read_to_string(target.join(format!("ingot-{word}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{word}");
    }
    assert!(target.join("ingot.1").is_file() && target.join("ingot-models-show.1").is_file());
    fail(ingot(&["man", "-o", "/dev/null/x"]), 1, &["/dev/null/x"]);
}
