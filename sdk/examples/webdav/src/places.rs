//! Where objects lie. A server lists a collection whole, and an answer may have 1 MiB: some 3,000 members. So the objects of a
//! folder lie in collections below it, whose names are beginnings of theirs and end in `~`, which no key has: `s/a17f` lies at
//! `s/a~/a17f`. Of numbers, which all begin alike, that is all but the last three digits: `m/000000000017` lies at
//! `m/000000000~/000000000017`. As the beginnings are in order, so are the objects; and no object is where a folder is.

/// What is kept apart from all that keys name.
const MARK: char = '~';

/// The paths below the URL of the settings.
pub(crate) struct Places {
    /// The repository's collection, with a slash at its end if it is not that of the settings.
    prefix: String,
}

/// What a member of a collection is there for.
pub(crate) enum Named<'a> {
    /// A folder of keys.
    Folder,
    /// A collection of objects whose names begin so.
    Objects(&'a str),
    /// An object.
    Object(&'a str),
    /// The spare of an object that was replaced.
    Spare(&'a str),
}

impl Places {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") } }
    }

    /// A folder of keys: empty, or with a slash at its end.
    pub(crate) fn folder(&self, folder: &str) -> String {
        format!("{}{folder}", self.prefix)
    }

    /// The collection of the objects of a folder whose names begin so.
    pub(crate) fn objects(&self, beginning: &str) -> String {
        format!("{}{beginning}{MARK}", self.prefix)
    }

    pub(crate) fn object(&self, key: &str) -> String {
        let (folder, name) = key.rsplit_once('/').map_or(("", key), |(folder, name)| (&key[..=folder.len()], name));
        format!("{}/{name}", self.objects(&format!("{folder}{}", beginning(name))))
    }

    /// Where an object that was replaced is once more.
    pub(crate) fn spare(&self, key: &str) -> String {
        format!("{}{MARK}", self.object(key))
    }

    /// Where objects are uploaded.
    pub(crate) fn uploads(&self) -> String {
        format!("{}{MARK}new", self.prefix)
    }
}

/// The collection that a path lies in.
pub(crate) fn above(path: &str) -> &str {
    path.trim_end_matches('/').rsplit_once('/').map_or("", |(above, _)| above)
}

fn beginning(name: &str) -> &str {
    let number = name.len() > 3 && name.bytes().all(|byte| byte.is_ascii_digit());
    let length = if number { name.len() - 3 } else { 1 };
    name.get(..length).unwrap_or_default()
}

/// What a member is, by its name; none if it is nothing of ours.
pub(crate) fn named(name: &str, collection: bool) -> Option<Named<'_>> {
    let marked = name.strip_suffix(MARK);
    let plain = marked.unwrap_or(name);
    let of_keys = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if plain.is_empty() || !plain.bytes().all(of_keys) {
        return None;
    }
    Some(match (marked, collection) {
        (None, true) => Named::Folder,
        (Some(beginning), true) => Named::Objects(beginning),
        (None, false) => Named::Object(name),
        (Some(name), false) => Named::Spare(name),
    })
}
