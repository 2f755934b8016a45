//! Who this agent is.

use std::path::{Path, PathBuf};

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::Value;
use zeroize::Zeroizing;

/// This agent's pod, as the downward API tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    /// The node that it runs on.
    pub node: String,
    /// The file of a token of the pod's, if there is one: by it the agent knows the UID of its `Node`.
    pub token: Option<PathBuf>,
    /// The namespace of remora.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's UID: what a claim names.
    pub uid: String,
}

impl Me {
    /// The UID of the node, of which the API server tells in the token of each pod on it (KEP-4193): so an agent needs no right to
    /// read nodes. Read anew each time: a node that joins again has another one. None if it is not there.
    pub(super) fn node_uid(&self) -> Option<String> {
        of_file(self.token.as_deref()?, &self.node)
    }
}

fn of_file(token: &Path, node: &str) -> Option<String> {
    let token = Zeroizing::new(std::fs::read_to_string(token).ok()?);
    of_token(&token, node)
}

/// It is this agent's own token, so nobody has to check its signature.
fn of_token(token: &str, node: &str) -> Option<String> {
    let claims = Base64UrlUnpadded::decode_vec(token.trim().split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let told = &claims["kubernetes.io"]["node"];
    let uid = told["uid"].as_str().filter(|uid| !uid.is_empty() && told["name"] == node)?;
    Some(uid.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_tells_the_node_that_it_is_of() {
        let token = |claims: &Value| {
            format!("head.{}.signature\n", Base64UrlUnpadded::encode_string(claims.to_string().as_bytes()))
        };
        let of_node =
            |node: Value| token(&json!({"aud": ["x"], "kubernetes.io": {"namespace": "remora", "node": node}}));
        let whole = of_node(json!({"name": "one", "uid": "8f6e"}));
        assert_eq!(of_token(&whole, "one").as_deref(), Some("8f6e"));
        assert_eq!(of_token(&whole, "two"), None);
        // As the API server writes it of a node that has no object.
        assert_eq!(of_token(&of_node(json!({"name": "one"})), "one"), None);
        assert_eq!(of_token(&token(&json!({})), "one"), None);
        for none in ["", "a.b", "head.!.signature", "head.e30.signature"] {
            assert_eq!(of_token(none, "one"), None, "{none}");
        }
    }
}
