//! Servers that send whoever asks elsewhere, or answer without end.

use std::fs;
use std::sync::{Arc, Mutex};

use remora_core::ErrorKind;
use remora_tests::registry::{WASM, digest};
use serde_json::json;

use super::{Scene, labels};
use crate::movers::network::{Server, answer};

/// A registry without TLS, that answers as a test says.
async fn plain(scene: &Scene, lines: &str, answers: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Server {
    let server = Server::start("127.0.0.1:0", answers).await;
    scene.registries(&server.address.to_string(), &format!("  plainHttp: true\n{lines}"));
    server
}

/// The manifest of the component, as such a registry gives it.
fn manifest() -> String {
    let layer = json!({"mediaType": WASM, "digest": digest(labels()), "size": labels().len()});
    json!({"schemaVersion": 2, "layers": [layer]}).to_string()
}

fn blob() -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", labels().len());
    [head.into_bytes(), labels().to_vec()].concat()
}

fn redirect(to: &str) -> Vec<u8> {
    format!("HTTP/1.1 307 Elsewhere\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").into_bytes()
}

/// What servers were asked, in order.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    fn note(&self, whom: &str, request: &str) {
        let login = request.lines().find(|line| line.to_lowercase().starts_with("authorization:"));
        let line = request.split(" HTTP/").next().unwrap_or_default();
        let login = login.map_or("nobody", |line| line.split_once(':').unwrap().1.trim());
        self.0.lock().unwrap().push(format!("{whom} {} as {login}", line.split(['?', '@']).next().unwrap_or_default()));
    }

    fn all(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_goes_to_the_host_that_it_is_for_and_nowhere_else() {
    let scene = Scene::new();
    let asked = Asked::default();
    let note = asked.clone();
    let storage = Server::start("127.0.0.1:0", move |request| {
        note.note("storage", request);
        blob()
    })
    .await;
    let note = asked.clone();
    let tokens = Server::start("127.0.0.1:0", move |request| {
        note.note("tokens", request);
        answer("200 OK", r#"{"token": "abc"}"#)
    })
    .await;
    let challenge = format!(
        "HTTP/1.1 401 Who\r\nwww-authenticate: Bearer realm=\"http://{}/token\",service=\"r\"\r\ncontent-length: 0\r\n\
         connection: close\r\n\r\n",
        tokens.address
    );
    let (note, to) = (asked.clone(), format!("http://{}/blob?signed", storage.address));
    let registry = plain(&scene, "  pullSecret: pull.json\n", move |request| {
        note.note("registry", request);
        match request {
            _ if !request.to_lowercase().contains("authorization:") => challenge.clone().into_bytes(),
            _ if request.contains("/blobs/") => redirect(&to),
            _ => answer("200 OK", &manifest()),
        }
    })
    .await;
    let (host, other) = (registry.address.to_string(), tokens.address.to_string());
    scene.policy(&format!("oci://{host}/acme/labels@{}", digest(manifest().as_bytes())));
    let pull = |hosts: &[&str]| {
        let auths: serde_json::Map<_, _> =
            hosts.iter().map(|host| ((*host).to_owned(), json!({"username": "u", "password": "p"}))).collect();
        fs::write(scene.at("plugins/pull.json"), json!({"auths": auths}).to_string()).unwrap();
    };
    // Of the registry's own password nobody else hears.
    pull(&[&host]);
    scene.is_good();
    let blob_path = format!("/v2/acme/labels/blobs/{}", digest(labels()));
    let manifest_path = "registry GET /v2/acme/labels/manifests/sha256:";
    let all = asked.all();
    assert_eq!(all.len(), 5, "{all:?}");
    assert!(all[0].starts_with(manifest_path) && all[0].ends_with("as nobody"), "{all:?}");
    assert_eq!(all[1], "tokens GET /token as nobody");
    assert!(all[2].starts_with(manifest_path) && all[2].ends_with("as Bearer abc"), "{all:?}");
    assert_eq!(all[3], format!("registry GET {blob_path} as Bearer abc"));
    assert_eq!(all[4], "storage GET /blob as nobody");
    // That of the server of tokens goes there.
    fs::remove_dir_all(scene.at("fetched")).unwrap();
    pull(&[&host, &other]);
    scene.is_good();
    assert!(asked.all().contains(&"tokens GET /token as Basic dTpw".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_inside_or_without_end_is_not_followed() {
    let scene = Scene::new();
    let inside = Server::start("127.0.0.2:0", |_| blob()).await;
    for (to, kind, said) in [
        (format!("http://{}/", inside.address), ErrorKind::Refused, "no address of the internet"),
        ("http://169.254.169.254/latest".into(), ErrorKind::Refused, "169.254.169.254"),
        ("ftp://127.0.0.1/x".into(), ErrorKind::Refused, "not https"),
        ("http://u:p@127.0.0.1/x".into(), ErrorKind::Refused, "not https"),
        ("/round/and/round".into(), ErrorKind::Failed, "more than 3 times"),
    ] {
        let server = plain(&scene, "", move |request| {
            if request.contains("/manifests/") { answer("200 OK", &manifest()) } else { redirect(&to) }
        })
        .await;
        scene.policy(&format!("oci://{}/acme/labels@{}", server.address, digest(manifest().as_bytes())));
        scene.is_refused(kind, said);
    }
    assert_eq!(inside.seen(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_read_no_further_than_it_may_be_long() {
    let scene = Scene::new();
    let endless = || {
        let mut answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
        answer.resize(2 << 20, b' ');
        answer
    };
    let server = plain(&scene, "", move |_| endless()).await;
    scene.policy(&format!("oci://{}/acme/labels@{}", server.address, digest(manifest().as_bytes())));
    scene.is_refused(ErrorKind::Damaged, "more than 1048576 bytes");
    let server =
        plain(
            &scene,
            "",
            move |request| {
                if request.contains("/manifests/") { answer("200 OK", &manifest()) } else { endless() }
            },
        )
        .await;
    scene.policy(&format!("oci://{}/acme/labels@{}", server.address, digest(manifest().as_bytes())));
    scene.is_refused(ErrorKind::Damaged, &format!("more than {} bytes", labels().len()));
}
