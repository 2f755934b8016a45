//! The XML of S3 about locks and versions.

use jiff::Timestamp;
use object_store::path::Path;
use roxmltree::{Document, Node};

use super::{Version, What};

/// A page of a listing of versions.
pub(super) struct Page {
    pub(super) versions: Vec<Version>,
    /// Where the next page begins: a key and a version.
    pub(super) next: Option<(String, String)>,
}

/// The body of a request that keeps an object.
pub(super) fn retention(until: Timestamp) -> String {
    format!(
        "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>COMPLIANCE</Mode>\
         <RetainUntilDate>{}</RetainUntilDate></Retention>",
        seconds(until)
    )
}

/// A time in whole seconds, as S3 takes it.
pub(super) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Until when an object is kept, in an answer.
pub(super) fn kept_until(text: &str) -> Result<Timestamp, String> {
    let document = Document::parse(text).map_err(|e| e.to_string())?;
    let until = child(document.root_element(), "RetainUntilDate").ok_or("it has no RetainUntilDate")?;
    until.parse().map_err(|_| format!("{until:?} is no time"))
}

/// A page of versions; the names lose `prefix` and the slash behind it.
pub(super) fn page(text: &str, prefix: &str) -> Result<Page, String> {
    let document = Document::parse(text).map_err(|e| e.to_string())?;
    let root = document.root_element();
    let mut versions = Vec::new();
    for node in root.children() {
        let what = match node.tag_name().name() {
            "Version" => What::Data(field(node, "Size")?.parse().map_err(|_| "a size is no number")?),
            "DeleteMarker" => What::DeleteMarker,
            _ => continue,
        };
        let key = field(node, "Key")?;
        let name = key.strip_prefix(prefix).ok_or_else(|| format!("{key:?} was not asked for"))?;
        versions.push(Version {
            name: Path::parse(name).map_err(|e| e.to_string())?,
            id: field(node, "VersionId")?.to_owned(),
            latest: field(node, "IsLatest")? == "true",
            what,
            stored: field(node, "LastModified")?.parse().map_err(|_| "a LastModified is no time")?,
        });
    }
    let next = if child(root, "IsTruncated") == Some("true") {
        let version = child(root, "NextVersionIdMarker").unwrap_or_default();
        Some((field(root, "NextKeyMarker")?.to_owned(), version.to_owned()))
    } else {
        None
    };
    Ok(Page { versions, next })
}

fn field<'a>(node: Node<'a, '_>, name: &str) -> Result<&'a str, String> {
    child(node, name).ok_or_else(|| format!("a {} has no {name}", node.tag_name().name()))
}

fn child<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.children().find(|child| child.tag_name().name() == name).and_then(|child| child.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_marks_of_a_page_are_told_apart() {
        let text = "<ListVersionsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><IsTruncated>true</IsTruncated>\
            <NextKeyMarker>p/k</NextKeyMarker><NextVersionIdMarker>1</NextVersionIdMarker>\
            <DeleteMarker><IsLatest>true</IsLatest><Key>p/k&amp;</Key><LastModified>2026-11-21T16:15:18.589Z</LastModified>\
            <VersionId>2</VersionId></DeleteMarker><Version><LastModified>2026-11-21T16:15:18Z</LastModified>\
            <IsLatest>false</IsLatest><Key>p/k</Key><Size>5</Size><VersionId>1</VersionId></Version></ListVersionsResult>";
        let found = page(text, "p/").unwrap();
        let short: Vec<_> = found.versions.iter().map(|v| (v.name.as_ref(), v.id.as_str(), v.latest, v.what)).collect();
        assert_eq!(short, [("k&", "2", true, What::DeleteMarker), ("k", "1", false, What::Data(5))]);
        assert_eq!(found.next, Some(("p/k".into(), "1".into())));
        assert!(page(text, "q/").is_err() && page("<a>", "").is_err());
    }

    #[test]
    fn a_time_goes_there_and_comes_back() {
        let until: Timestamp = "2027-01-31T00:00:01Z".parse().unwrap();
        assert_eq!(kept_until(&retention(until)).unwrap(), until);
        assert!(kept_until("<Retention/>").is_err());
    }
}
