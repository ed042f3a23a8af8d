//! Writes the seeds into `corpus/TARGET/`, where cargo-fuzz looks for them.

use std::path::Path;

fn main() -> std::io::Result<()> {
    for (target, seeds) in ingot_fuzz::seeds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        std::fs::create_dir_all(&folder)?;
        for (ix, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed{ix}")), seed)?;
        }
    }
    Ok(())
}
