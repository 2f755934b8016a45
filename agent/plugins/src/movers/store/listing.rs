//! Listings: page by page, each looked at before it is believed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Extensions, ListResult, ObjectMeta, Result};

use super::super::wire::{Call, Done};
use super::super::words::{Object, Page};
use super::{Inner, SAMPLE};

/// Objects in a page.
const PAGE: usize = 1_000;

/// Pages in a row without an object: a store may have skipped what others deleted, but not for ever.
const EMPTY_PAGES: u32 = 100;

/// How much a listing may tell.
struct Most {
    objects: u64,
    /// Bytes of their keys and etags together: 128 of each of so many objects, and some more.
    names: u64,
    /// What has no more.
    of: &'static str,
}

/// So many segments, of 16 MiB each, one machine of 61 TiB has. Whoever lists a folder holds all of it.
const FOLDER: Most = Most { objects: 4_000_000, names: 512 << 20, of: "folder of a repository" };

/// So many segments 1.5 PiB have. All of a repository is only counted, object by object.
const REPOSITORY: Most = Most { objects: 100_000_000, names: 13 << 30, of: "repository" };

/// Sorts after all that a key has.
const AFTER_ALL: char = '~';

/// How much a listing told by now.
#[derive(Default)]
struct Told {
    objects: u64,
    names: u64,
}

impl Told {
    /// Counts one object or folder more, with so many bytes of names; whether a listing may tell of it.
    fn count(&mut self, names: usize, most: &Most) -> bool {
        self.objects += 1;
        self.names += names as u64;
        self.objects <= most.objects && self.names <= most.names
    }
}

/// A walk through the keys below a prefix.
struct Walk {
    inner: Arc<Inner>,
    prefix: String,
    after: Option<String>,
    token: Option<String>,
    last: Option<String>,
    empty: u32,
    told: Told,
    most: &'static Most,
    over: bool,
}

impl Walk {
    fn new(inner: Arc<Inner>, prefix: Option<&Path>) -> Self {
        let prefix = prefix.filter(|prefix| prefix.parts().next().is_some());
        let prefix = prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
        let (told, most) = (Told::default(), &FOLDER);
        Self { inner, prefix, after: None, token: None, last: None, empty: 0, told, most, over: false }
    }

    /// The next page's objects; none after the last one.
    async fn next(&mut self) -> Result<Option<Vec<Object>>> {
        if self.over {
            return Ok(None);
        }
        let call = Call::List { prefix: self.prefix.clone(), after: self.after.clone(), token: self.token.clone() };
        let Done::Page(page) = self.inner.plain_call("listing", &self.prefix, call).await? else {
            return self.inner.unexpected("listing", &self.prefix);
        };
        self.check(&page)?;
        self.last = page.objects.last().map(|object| object.key.clone()).or(self.last.take());
        self.over = page.next.is_none();
        self.token = page.next;
        Ok(Some(page.objects))
    }

    /// Goes on behind all that is in a folder.
    fn skip(&mut self, folder: &str) {
        if !self.over {
            self.after = Some(format!("{folder}/{AFTER_ALL}"));
            self.token = None;
            self.last.clone_from(&self.after);
        }
    }

    fn check(&mut self, page: &Page) -> Result<()> {
        let lie = |what: &str| Err(self.inner.lie(&format!("its listing of {:?} {what}", self.prefix)));
        if page.objects.len() > PAGE {
            return lie(&format!("has {} objects in a page, {PAGE} at most", page.objects.len()));
        }
        let mut last = self.last.as_deref();
        for object in &page.objects {
            if !object.key.starts_with(&self.prefix) {
                return lie(&format!("has {:?} in it", object.key));
            }
            if last.is_some_and(|last| last >= object.key.as_str()) {
                return lie(&format!("is not in order at {:?}", object.key));
            }
            last = Some(&object.key);
        }
        self.empty = if page.objects.is_empty() { self.empty + 1 } else { 0 };
        if self.empty > EMPTY_PAGES {
            return lie("never ends");
        }
        Ok(())
    }

    /// Counts an object that whoever lists is told of.
    fn count(&mut self, object: &Object) -> Result<()> {
        let etag = object.etag.as_ref().map_or(0, String::len);
        self.count_names(object.key.len() - self.prefix.len() + etag)
    }

    fn count_names(&mut self, names: usize) -> Result<()> {
        if self.told.count(names, self.most) {
            return Ok(());
        }
        let Most { objects, names, of } = self.most;
        let (prefix, names) = (&self.prefix, names >> 20);
        let what = format!(
            "its listing of {prefix:?} has more than {objects} objects or {names} MiB of names, as no {of} has"
        );
        Err(self.inner.lie(&what))
    }

    /// The keys below the prefix that this process knows to be there, and their sizes.
    fn expected(&self) -> BTreeMap<String, u64> {
        let stored = self.inner.stored();
        let below = stored.iter().filter(|(key, _)| key.starts_with(&self.prefix));
        below.map(|(key, len)| (key.clone(), *len)).collect()
    }

    /// A large one is as long as what was stored. A small one may have been replaced since by another host, and any one emptied.
    fn meets(&self, expected: &mut BTreeMap<String, u64>, object: &Object) -> Result<()> {
        match expected.remove(&object.key) {
            Some(len) if len > SAMPLE && object.size != len && object.size != 0 => {
                let (key, size) = (&object.key, object.size);
                Err(self.inner.lie(&format!("it says that it stored {len} bytes as {key}, and lists {size}")))
            }
            _ => Ok(()),
        }
    }

    /// None of what a listing left out may be there: another host may have removed it, of course.
    async fn look_for(&self, left_out: BTreeMap<String, u64>) -> Result<()> {
        for (key, _) in left_out {
            // Removed by this process meanwhile.
            if !self.inner.stored().contains_key(&key) {
                continue;
            }
            match self.inner.head(&key).await {
                Ok(_) => {
                    return Err(self
                        .inner
                        .lie(&format!("its listing of {:?} leaves out {key}, which is there", self.prefix)));
                }
                Err(object_store::Error::NotFound { .. }) => drop(self.inner.stored().remove(&key)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// All objects below a prefix.
pub(super) fn all(inner: Arc<Inner>, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
    let mut walk = Walk::new(inner, prefix);
    if walk.prefix.is_empty() {
        walk.most = &REPOSITORY;
    }
    let expected = walk.expected();
    let pages = stream::try_unfold((walk, expected), |(mut walk, mut expected)| async move {
        let Some(objects) = walk.next().await? else {
            walk.look_for(expected).await?;
            return Ok::<_, object_store::Error>(None);
        };
        let mut metas = VecDeque::with_capacity(objects.len());
        for object in objects {
            walk.count(&object)?;
            walk.meets(&mut expected, &object)?;
            metas.push_back(walk.inner.meta(object)?);
        }
        Ok(Some((stream::iter(metas).map(Ok), (walk, expected))))
    });
    pages.try_flatten().boxed()
}

/// The objects right below a prefix, and the folders there. Of a folder one page is seen, then the walk goes on behind it.
pub(super) async fn children(inner: &Arc<Inner>, prefix: Option<&Path>) -> Result<ListResult> {
    let mut walk = Walk::new(Arc::clone(inner), prefix);
    let mut expected = walk.expected();
    let (mut objects, mut folders) = (Vec::new(), BTreeSet::new());
    while let Some(page) = walk.next().await? {
        let mut skipping = None;
        for object in page {
            let below = &object.key[walk.prefix.len()..];
            if let Some((folder, _)) = below.split_once('/') {
                let folder = format!("{}{folder}", walk.prefix);
                skipping = Some(folder.clone());
                // What is in it is not held.
                let names = folder.len();
                if folders.insert(folder) {
                    walk.count_names(names)?;
                }
            } else {
                skipping = None;
                walk.count(&object)?;
                walk.meets(&mut expected, &object)?;
                objects.push(walk.inner.meta(object)?);
            }
        }
        if let Some(folder) = skipping {
            walk.skip(&folder);
        }
    }
    expected.retain(|key, _| {
        let folder = key[walk.prefix.len()..].split_once('/').map(|(folder, _)| format!("{}{folder}", walk.prefix));
        folder.is_none_or(|folder| !folders.contains(&folder))
    });
    walk.look_for(expected).await?;
    let prefixes =
        folders.iter().map(|folder| Path::parse(folder).map_err(|_| walk.inner.lie(&format!("{folder:?} is no key"))));
    Ok(ListResult { common_prefixes: prefixes.collect::<Result<_>>()?, objects, extensions: Extensions::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many things with such names are told of.
    fn taken(names: usize, most: &Most) -> u64 {
        let mut told = Told::default();
        (0..=most.objects).take_while(|_| told.count(names, most)).count() as u64
    }

    #[test]
    fn a_folder_of_61_tib_is_listed_and_one_without_end_is_not() {
        // As an S3 server lists a segment: its name in the folder, and its etag.
        assert_eq!(taken(42 + 34, &FOLDER), FOLDER.objects);
    }

    #[test]
    fn long_names_end_a_listing_earlier() {
        assert_eq!(taken(2_000, &FOLDER), FOLDER.names / 2_000);
    }

    #[test]
    fn all_of_a_repository_may_be_more_than_a_folder_and_ends_too() {
        let before = REPOSITORY.objects - 1;
        let mut told = Told { objects: before, names: before * 128 };
        assert!(told.count(128, &REPOSITORY));
        assert!(!told.count(128, &REPOSITORY));
    }
}
