//! Pages of keys in order, from collections that are listed whole.

use std::collections::BTreeMap;

use remora_sdk::objects::{Error, Object, Page};

use crate::places::{Named, named};
use crate::{Dav, Member};

/// Objects in a page.
const PAGE: usize = 1_000;

/// What is known of keys that begin so, in the order in which it is looked at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// It is one.
    Object,
    /// Objects of a folder whose names begin so lie in one collection.
    Objects,
    /// They are in a folder.
    Folder,
}

/// The objects whose keys begin with `prefix` and come after `after`.
pub(crate) fn page(dav: &Dav, prefix: &str, after: &str) -> Result<Page, Error> {
    let mut walk = Walk { dav, prefix, after, waiting: BTreeMap::new(), found: Vec::new() };
    let (folder, _) = prefix.rsplit_once('/').map_or(("", prefix), |(folder, name)| (&prefix[..=folder.len()], name));
    if !walk.open_folder(folder)? {
        // Nothing was stored there yet, or not even the collection of the settings is there.
        dav.must_be_there()?;
    }
    while let Some(((begins, kind), object)) = walk.waiting.pop_first() {
        match (kind, object) {
            (Kind::Object, Some(object)) => walk.found.push(object),
            (Kind::Objects, _) => walk.open_objects(&begins)?,
            _ => drop(walk.open_folder(&begins)?),
        }
        if walk.found.len() == PAGE {
            let next = walk.found.last().filter(|_| !walk.waiting.is_empty()).map(|object| object.key.clone());
            return Ok(Page { objects: walk.found, next });
        }
    }
    Ok(Page { objects: walk.found, next: None })
}

/// Whatever is still to be looked at waits under what its keys begin with. The first is taken out, and what is in it is put in
/// its place: all of that begins with it, so it comes before or among what else waits, and keys come out in order.
struct Walk<'a> {
    dav: &'a Dav,
    prefix: &'a str,
    after: &'a str,
    waiting: BTreeMap<(String, Kind), Option<Object>>,
    found: Vec<Object>,
}

impl Walk<'_> {
    /// Puts in what is in a folder (empty, or with a slash at its end); whether it is there.
    fn open_folder(&mut self, folder: &str) -> Result<bool, Error> {
        let Some(members) = self.dav.members(&self.dav.places.folder(folder))? else { return Ok(false) };
        for member in members {
            let (begins, kind) = match named(&member.name, member.collection) {
                Some(Named::Folder) => (format!("{folder}{}/", member.name), Kind::Folder),
                Some(Named::Objects(beginning)) => (format!("{folder}{beginning}"), Kind::Objects),
                _ => continue,
            };
            // Keys that begin so may be wanted, and may come after.
            let within = begins.starts_with(self.prefix) || self.prefix.starts_with(&begins);
            if within && (begins.as_str() > self.after || self.after.starts_with(&begins)) {
                self.waiting.insert((begins, kind), None);
            }
        }
        Ok(true)
    }

    /// Puts in the objects whose keys begin so, of one folder.
    fn open_objects(&mut self, begins: &str) -> Result<(), Error> {
        let folder = begins.rfind('/').map_or("", |slash| &begins[..=slash]);
        let members = self.dav.members(&self.dav.places.objects(begins))?.unwrap_or_default();
        let (mut objects, mut spares) = (Vec::new(), Vec::new());
        for member in &members {
            match named(&member.name, member.collection) {
                Some(Named::Object(name)) => objects.push((name, member)),
                Some(Named::Spare(name)) => spares.push((name, member)),
                _ => {}
            }
        }
        // While an object is replaced there may be its spare alone.
        for (name, member) in objects.into_iter().chain(spares) {
            let key = format!("{folder}{name}");
            if key.starts_with(begins) && key.starts_with(self.prefix) && key.as_str() > self.after {
                let object = object(key.clone(), member)?;
                self.waiting.entry((key, Kind::Object)).or_insert(Some(object));
            }
        }
        Ok(())
    }
}

fn object(key: String, member: &Member) -> Result<Object, Error> {
    let (size, modified) = member.size_and_time()?;
    Ok(Object { key, size, modified, etag: member.etag.clone() })
}
