//! What QEMU itself says of the images it has open (QMP `query-named-block-nodes`).
//!
//! libvirt marks a domain whose monitor is asked this way as tainted (`custom-monitor`), in its log only. It has no
//! call of its own that tells whether a bitmap is consistent.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::json;

/// The QMP command.
pub(crate) const QUERY: &str = r#"{"execute":"query-named-block-nodes","arguments":{"flat":true}}"#;

/// The QMP command that removes a bitmap from a node and from its image.
pub(crate) fn remove_bitmap(node: &str, name: &str) -> String {
    json!({"execute": "block-dirty-bitmap-remove", "arguments": {"node": node, "name": name}}).to_string()
}

/// The error in an answer, if it is one: libvirt passes those on as if all was well.
pub(crate) fn refusal(answer: &str) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_str(answer).unwrap_or_default();
    answer.get("error").map(|error| error["desc"].as_str().unwrap_or("QEMU refuses").to_owned())
}

/// An image that QEMU has open.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct BlockNode {
    /// Its bitmaps by name.
    pub(crate) bitmaps: BTreeMap<String, Bitmap>,
    /// The raw data file that its header names.
    pub(crate) data_file: Option<PathBuf>,
    /// The version of its format (`0.10`, `1.1`), for qcow2.
    pub(crate) compat: Option<String>,
}

/// A dirty bitmap, with QEMU's own flags.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Bitmap {
    name: String,
    /// Whether it follows the guest's writes.
    pub(crate) recording: bool,
    /// Whether it is kept in the image.
    pub(crate) persistent: bool,
    /// Whether a job uses it.
    pub(crate) busy: bool,
    /// It was not stored when QEMU ended.
    #[serde(default)]
    pub(crate) inconsistent: bool,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "return")]
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Node {
    #[serde(rename = "node-name")]
    name: Option<String>,
    #[serde(default)]
    dirty_bitmaps: Vec<Bitmap>,
    image: Image,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Image {
    format_specific: Option<FormatSpecific>,
}

#[derive(Deserialize)]
struct FormatSpecific {
    #[serde(default)]
    data: serde_json::Value,
}

/// Reads the answer to [`QUERY`]: nodes by their names.
pub(crate) fn parse(answer: &str) -> Result<BTreeMap<String, BlockNode>, serde_json::Error> {
    let answer: Answer = serde_json::from_str(answer)?;
    Ok(answer.nodes.into_iter().filter_map(|node| Some((node.name.clone()?, block_node(node)))).collect())
}

fn block_node(node: Node) -> BlockNode {
    let data = node.image.format_specific.map(|f| f.data).unwrap_or_default();
    let field = |name: &str| data.get(name).and_then(|v| v.as_str()).map(str::to_owned);
    BlockNode {
        bitmaps: node.dirty_bitmaps.into_iter().map(|b| (b.name.clone(), b)).collect(),
        data_file: field("data-file").map(PathBuf::from),
        compat: field("compat"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cut from the answer of QEMU 7.2 for an overlay with a raw data file, whose QEMU was killed once.
    const ANSWER: &str = r#"{"return":[{"iops_rd":0,"image":{"virtual-size":1073741824,"filename":"/i/d1.qcow2",
        "format":"qcow2","format-specific":{"type":"qcow2","data":{"compat":"1.1","data-file":"/i/d1.raw",
        "data-file-raw":true,"bitmaps":[{"flags":["in-use","auto"],"name":"b","granularity":65536}],"refcount-bits":16}}},
        "ro":false,"node-name":"libvirt-2-format","drv":"qcow2","dirty-bitmaps":[
        {"name":"q1","recording":true,"persistent":true,"busy":false,"granularity":65536,"count":0},
        {"name":"b","recording":false,"persistent":true,"busy":false,"granularity":65536,"count":0,"inconsistent":true}]},
        {"image":{"virtual-size":5898752,"filename":"/i/d1.qcow2","format":"file"},"node-name":"libvirt-2-storage"}],"id":"libvirt-1"}"#;

    #[test]
    fn bitmaps_and_data_file_are_read() {
        let nodes = parse(ANSWER).unwrap();
        let node = &nodes["libvirt-2-format"];
        assert_eq!(node.data_file, Some("/i/d1.raw".into()));
        assert_eq!(node.compat.as_deref(), Some("1.1"));
        assert!(node.bitmaps["b"].inconsistent && !node.bitmaps["q1"].inconsistent && node.bitmaps["q1"].recording);
        assert_eq!(nodes["libvirt-2-storage"], BlockNode::default());
        assert!(parse(r#"{"error":{}}"#).is_err());
    }

    #[test]
    fn a_refusal_is_no_success() {
        let refused = r#"{"id":"libvirt-9","error":{"class":"GenericError","desc":"Dirty bitmap 'x' not found"}}"#;
        assert_eq!(refusal(refused).as_deref(), Some("Dirty bitmap 'x' not found"));
        assert_eq!(refusal(r#"{"return":{},"id":"libvirt-9"}"#), None);
    }
}
