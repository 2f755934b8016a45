//! Bringing back what was deleted or replaced in a bucket that keeps versions. No key is needed: a thief may have deleted
//! the slots, too.

use object_store::path::Path;
use remora_core::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::collect::Mode;
use crate::location::Location;
use crate::names::{self, Standing};
use crate::store::{Store, Version, What};
use crate::vault::Vault;

/// What was brought back, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Undeleted {
    /// The objects that had been deleted.
    pub deleted: Vec<String>,
    /// The objects that had been replaced by something else.
    pub replaced: Vec<String>,
}

/// What is to be brought back, and the versions that hide it.
#[derive(Default)]
struct Plan {
    found: Undeleted,
    hiding: Vec<Version>,
}

/// Brings back what was deleted or replaced at `location` and is still there. Slots that were removed on purpose come
/// back, too; what a collection has removed is gone for good.
pub async fn undelete(location: &Location, mode: Mode) -> Result<Undeleted> {
    undelete_in(&Store::open(location)?, mode).await
}

pub(crate) async fn undelete_in(store: &Store, mode: Mode) -> Result<Undeleted> {
    if store.locks().is_none() {
        let what = format!("the store of repository {} keeps no versions of objects", store.place());
        return Err(Error::new(ErrorKind::Unsupported, what).advise("What was deleted there is gone."));
    }
    let plan = Plan::of(store).await?;
    if mode == Mode::Run {
        store.remove_versions(&plan.hiding).await?;
    }
    Ok(plan.found)
}

impl Vault {
    /// The objects that somebody deleted or replaced, of a repository that is or was immutable. Not the segments that
    /// were deleted, of which a verification tells, nor slots, which may be removed.
    pub async fn tampered(&self) -> Result<Vec<String>> {
        if !self.0.keeps_versions() {
            return Ok(Vec::new());
        }
        let Undeleted { deleted, replaced } = Plan::of(&self.0.store).await?.found;
        let telling =
            |name: &String| names::segment_of(name).is_none() && names::standing(name) != Some(Standing::Slot);
        Ok(deleted.into_iter().filter(telling).chain(replaced).collect())
    }
}

impl Plan {
    async fn of(store: &Store) -> Result<Self> {
        let mut plan = Self::default();
        let versions = store.versions(&Path::default()).await?;
        for versions in versions.chunk_by(|a, b| a.name == b.name) {
            if let Some(standing) = names::standing(versions[0].name.as_ref()) {
                plan.add(versions, standing);
            }
        }
        Ok(plan)
    }

    /// The versions of an object, the newest first.
    fn add(&mut self, versions: &[Version], standing: Standing) {
        let is_data = |version: &&Version| matches!(version.what, What::Data(_));
        let Some(genuine) = versions.iter().rfind(is_data) else { return };
        let Some(newest) = versions.iter().find(is_data) else { return };
        let name = genuine.name.to_string();
        let emptied = standing == Standing::Entry && newest.what == What::Data(0);
        if newest.id != genuine.id && standing != Standing::Slot && !emptied {
            self.hiding.extend(versions.iter().take_while(|version| version.id != genuine.id).cloned());
            self.found.replaced.push(name);
        } else if versions[0].what == What::DeleteMarker {
            self.hiding.extend(versions.iter().take_while(|version| !is_data(version)).cloned());
            self.found.deleted.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn plan(versions: &[(&str, What)]) -> (Undeleted, Vec<String>) {
        let version = |(n, (name, what)): (usize, &(&str, What))| Version {
            name: Path::from(*name),
            id: n.to_string(),
            latest: false,
            what: *what,
            stored: Timestamp::UNIX_EPOCH,
        };
        let versions: Vec<_> = versions.iter().enumerate().map(version).collect();
        let mut plan = Plan::default();
        for versions in versions.chunk_by(|a, b| a.name == b.name) {
            if let Some(standing) = names::standing(versions[0].name.as_ref()) {
                plan.add(versions, standing);
            }
        }
        (plan.found, plan.hiding.into_iter().map(|version| version.id).collect())
    }

    #[test]
    fn the_version_that_was_created_comes_back_and_what_may_change_stays() {
        const MARK: What = What::DeleteMarker;
        let folder = "t/0011223344556677/8899aabbccddeeff";
        let id = "00112233445566778899aabbccddeeff";
        let (segment, entry) = (format!("{folder}/s/{id}.1"), format!("{folder}/m/000000000001"));
        let (session, slot) = (format!("{folder}/w/{id}"), "keys/0011223344556677.json");
        for (name, versions, hiding, replaced) in [
            (segment.as_str(), vec![MARK, MARK, What::Data(9)], vec!["0", "1"], false),
            (&segment, vec![What::Data(1), MARK, What::Data(9)], vec!["0", "1"], true),
            (&segment, vec![What::Data(9)], vec![], false),
            (&segment, vec![MARK], vec![], false),
            // Emptied as it was dropped; deleted after that; replaced.
            (&entry, vec![What::Data(0), What::Data(9)], vec![], false),
            (&entry, vec![MARK, What::Data(0), What::Data(9)], vec!["0"], false),
            (&entry, vec![What::Data(8), What::Data(9)], vec!["0"], true),
            (&session, vec![MARK, What::Data(9)], vec![], false),
            (&session, vec![What::Data(9), What::Data(9)], vec![], false),
            (slot, vec![MARK, What::Data(9)], vec!["0"], false),
            (slot, vec![What::Data(9), MARK, What::Data(9)], vec![], false),
            ("clock", vec![MARK, What::Data(0)], vec![], false),
            ("remora.json", vec![MARK, What::Data(0)], vec!["0"], false),
        ] {
            let all: Vec<_> = versions.iter().map(|what| (name, *what)).collect();
            let (found, hid) = plan(&all);
            assert_eq!(hid, hiding, "{name} {versions:?}");
            let named = Vec::from_iter((!hiding.is_empty()).then(|| name.to_owned()));
            let none = Vec::new();
            let wanted = if replaced { (&none, &named) } else { (&named, &none) };
            assert_eq!((&found.deleted, &found.replaced), wanted, "{name} {versions:?}");
        }
    }
}
