//! What S3 answers.

use std::fmt::Write;

use remora_sdk::objects::{Class, Error, Object, Page};
use roxmltree::{Document, Node};

fn unreadable(what: impl std::fmt::Display) -> Error {
    Error::new(Class::Retryable, "unreadable", format!("the store's answer cannot be read: {what}"))
}

fn text<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.children().find(|child| child.tag_name().name() == name)?.text()
}

/// A page of a listing; its keys without `prefix`.
pub(crate) fn page(xml: &str, prefix: &str) -> Result<Page, Error> {
    let document = Document::parse(xml).map_err(unreadable)?;
    let listing = document.root_element();
    let objects = listing.children().filter(|node| node.tag_name().name() == "Contents").map(|node| {
        let wanted = |name| text(node, name).ok_or_else(|| unreadable(format_args!("an object without {name}")));
        let key = wanted("Key")?;
        Ok(Object {
            key: key.strip_prefix(prefix).ok_or_else(|| unreadable("a key outside the prefix"))?.into(),
            size: wanted("Size")?.parse().map_err(unreadable)?,
            modified: wanted("LastModified")?.parse::<jiff::Timestamp>().map_err(unreadable)?.as_second(),
            etag: text(node, "ETag").map(Into::into),
        })
    });
    let truncated = text(listing, "IsTruncated") == Some("true");
    let next = text(listing, "NextContinuationToken").filter(|_| truncated);
    if truncated && next.is_none() {
        return Err(unreadable("it says that there is more, and not where"));
    }
    Ok(Page { objects: objects.collect::<Result<_, Error>>()?, next: next.map(Into::into) })
}

/// The numbers and tags of an upload's parts.
pub(crate) fn parts(xml: &str) -> Result<Vec<(u32, String)>, Error> {
    let document = Document::parse(xml).map_err(unreadable)?;
    let parts = document.descendants().filter(|node| node.tag_name().name() == "Part").map(|node| {
        let number = text(node, "PartNumber").and_then(|number| number.parse().ok());
        Ok((
            number.ok_or_else(|| unreadable("a part without a number"))?,
            text(node, "ETag").ok_or_else(|| unreadable("a part without a tag"))?.to_owned(),
        ))
    });
    parts.collect()
}

/// What completes an upload of these parts.
pub(crate) fn complete(parts: &[(u32, String)]) -> String {
    let mut xml = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (number, etag) in parts {
        let etag = etag.replace('&', "&amp;").replace('<', "&lt;");
        write!(xml, "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>").expect("a string takes all");
    }
    xml + "</CompleteMultipartUpload>"
}

/// The text of the first element of a name.
pub(crate) fn element(xml: &str, name: &str) -> Result<String, Error> {
    let document = Document::parse(xml).map_err(unreadable)?;
    let found = document.descendants().find(|node| node.tag_name().name() == name).and_then(|node| node.text());
    found.map(Into::into).ok_or_else(|| unreadable(format_args!("there is no {name}")))
}

/// The code and message of an error; empty if there are none, as with HEAD.
pub(crate) fn error(xml: &str) -> (String, String) {
    let Ok(document) = Document::parse(xml) else { return Default::default() };
    let error = document.root_element();
    (text(error, "Code").unwrap_or_default().into(), text(error, "Message").unwrap_or_default().into())
}
