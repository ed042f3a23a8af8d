//! Where measured tiles are kept, and which table a compilation takes.

use crate::Error;
use crate::device::{self, DeviceChoice};
use crate::places::Place;
use ingot_compiler::select::tiles::{TileError, slug};
use ingot_compiler::{TargetProfile, TileTable};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Which tiles a compilation takes.
///
/// ```
/// use ingot::Tiles;
///
/// assert_eq!("builtin".parse(), Ok(Tiles::BuiltIn));
/// assert_eq!("tiles.json".parse(), Ok(Tiles::File("tiles.json".into())));
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Tiles {
    /// Those that `ingot tune` kept for the adapter, else the built-in ones.
    #[default]
    Stored,
    /// Those that come with the compiler.
    BuiltIn,
    /// Those of a file that `ingot tune` wrote.
    File(PathBuf),
}

impl FromStr for Tiles {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "stored" => Self::Stored,
            "builtin" => Self::BuiltIn,
            _ => Self::File(text.into()),
        })
    }
}

impl Tiles {
    /// Gives a target the tiles; `adapter` names the device that the plan is for, if it is here. Plans of the processor
    /// have no tiles, and no file is one of theirs.
    ///
    /// ```
    /// use ingot::{Tiles, compiler::{TargetProfile, TileTable}};
    ///
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("tiles.json");
    /// TileTable::new("NVIDIA H100", "nvidia").write(&path)?;
    /// let mut target = TargetProfile::nvidia();
    /// Tiles::File(path.clone()).set(&mut target, None)?;
    /// assert_eq!(target.tiles.device, "NVIDIA H100");
    /// assert!(Tiles::File(path).set(&mut TargetProfile::apple(), None).is_err(), "measured for another target");
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Tiles`] if the table cannot be read, is none, or was measured for another target.
    pub fn set(&self, target: &mut TargetProfile, adapter: Option<&str>) -> Result<(), Error> {
        let path = match self {
            Self::BuiltIn => None,
            Self::File(path) => Some(path.clone()),
            Self::Stored if target.is_cpu => None,
            Self::Stored => adapter.and_then(stored_path).filter(|path| path.exists()),
        };
        if let Some(path) = path {
            let table = TileTable::read(&path)?;
            if table.target != target.name {
                return Err(TileError::OtherTarget { path, found: table.target, wanted: target.name.clone() }.into());
            }
            target.tiles = Arc::new(table);
        }
        Ok(())
    }
}

/// What the compiler is told of the device that a choice means, tiles included.
///
/// ```
/// use ingot::{DeviceChoice, Tiles, tuned_target};
///
/// assert_eq!(tuned_target(&DeviceChoice::Cpu, &Tiles::Stored)?.name, "cpu");
/// # Ok::<(), ingot::Error>(())
/// ```
///
/// # Errors
/// As opening the device and reading the table.
pub fn tuned_target(choice: &DeviceChoice, tiles: &Tiles) -> Result<TargetProfile, Error> {
    let Some(adapter) = device::resolve(choice)? else { return Ok(TargetProfile::cpu()) };
    let mut target = device::target_of(adapter.info());
    tiles.set(&mut target, Some(&adapter.info().name))?;
    Ok(target)
}

/// The file of an adapter's tiles in the data folder; `None` if there is no such folder.
///
/// ```
/// let path = ingot::stored_path("NVIDIA H100");
/// assert!(path.is_none_or(|path| path.ends_with("tiles/nvidia-h100.json")));
/// ```
pub fn stored_path(adapter: &str) -> Option<PathBuf> {
    Some(Place::Data.folder()?.join("tiles").join(format!("{}.json", slug(adapter))))
}

/// Adds rows to the table in a file. What was there and is no table of this target is replaced.
pub(crate) fn keep(path: &Path, found: &TileTable) -> Result<TileTable, Error> {
    let mut table = TileTable::new(&*found.device, &*found.target);
    if let Ok(before) = TileTable::read(path)
        && (&before.device, &before.target) == (&found.device, &found.target)
    {
        table = before;
    }
    found.rows.iter().for_each(|row| table.insert(row.clone()));
    table.write(path)?;
    Ok(table)
}
