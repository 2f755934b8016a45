//! What a tenant's `Repository` may not borrow: the policy of admission that is deployed.

use std::sync::OnceLock;
use std::time::Duration;

use remora_tests::{Answer, ApiServer, wait_until};
use serde_json::{Value, json};

use crate::{deployed, says, with};

/// How much later than it is applied a policy may be in force.
const IN_FORCE: Duration = Duration::from_mins(10);

/// A cluster of these tests' own, for the policy holds in all namespaces.
struct Cluster(ApiServer);

impl Cluster {
    fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn start() -> Self {
        let server = ApiServer::start();
        server.define(&deployed("crds.yaml"));
        for namespace in ["remora", "shop"] {
            server.make_namespace(namespace);
        }
        let mut old = repository("old", &json!({"url": "file:///srv"}));
        old["metadata"]["finalizers"] = json!(["remora.dev/test"]);
        server.create(&list("shop"), &old).ok();
        let policies = deployed("tenancy.yaml");
        let (policy, binding) = policies.split_at(policies.rfind("---\n").unwrap());
        let group = "/apis/admissionregistration.k8s.io/v1";
        server.apply_all(&format!("{group}/validatingadmissionpolicies"), policy);
        server.apply_all(&format!("{group}/validatingadmissionpolicybindings"), binding);
        let cluster = Self(server);
        wait_until("the policy is not in force", IN_FORCE, || {
            cluster.create("shop", "early", &json!({"url": "file:///a"})).code == 422
        });
        cluster
    }

    fn create(&self, namespace: &str, name: &str, fields: &Value) -> Answer {
        self.0.create(&list(namespace), &repository(name, fields))
    }

    /// That a tenant's is refused, and the administrators' is not.
    #[track_caller]
    fn refuses(&self, name: &str, fields: &Value, words: &str) {
        says(&self.create("shop", name, fields).refused(), words);
        self.create("remora", name, fields).ok();
    }
}

fn list(namespace: &str) -> String {
    format!("/apis/remora.dev/v1alpha1/namespaces/{namespace}/repositories")
}

/// A sound Repository but for some fields.
fn repository(name: &str, fields: &Value) -> Value {
    let sound = json!({
        "url": "s3://bucket/prefix?endpoint=https://s3.example.org",
        "credentialsSecret": {"name": "credentials"},
        "passphraseSecret": {"name": "passphrase"},
    });
    let (metadata, spec) = (json!({"name": name}), with(sound, fields));
    json!({"apiVersion": "remora.dev/v1alpha1", "kind": "Repository", "metadata": metadata, "spec": spec})
}

#[test]
fn a_tenant_borrows_nothing_of_the_nodes_the_cluster_or_the_administrators() {
    let cluster = Cluster::shared();
    cluster.create("shop", "sound", &json!({})).ok();
    cluster.create("shop", "ca-of-its-own", &json!({"caSecret": {"name": "ca"}})).ok();
    cluster
        .create("shop", "velero", &json!({"url": null, "credentialsSecret": null, "backupStorageLocation": "b"}))
        .ok();
    cluster.refuses("folder", &json!({"url": "file:///var/lib/kubelet"}), "a tenant's Repository lies in a bucket");
    let plugin = json!({"url": "plugin:acme/shop", "credentialsSecret": null});
    cluster.refuses("plugin", &plugin, "a tenant's Repository lies in a bucket");
    cluster.refuses("ambient", &json!({"credentialsSecret": null}), "names its own credentials");
    cluster.refuses("lends", &json!({"allowedNamespaces": ["bank"]}), "serves its own namespace only");

    // Nor later.
    let path = format!("{}/sound", list("shop"));
    let reason = cluster.0.merge(&path, &json!({"spec": {"credentialsSecret": null}})).refused();
    says(&reason, "names its own credentials");
}

#[test]
fn one_from_before_the_policy_can_be_told_of_and_can_go() {
    let cluster = Cluster::shared();
    let path = format!("{}/old", list("shop"));
    let changed = cluster.0.merge(&path, &json!({"spec": {"passphraseSecret": {"name": "other"}}})).refused();
    says(&changed, "a tenant's Repository lies in a bucket");
    cluster.0.merge(&format!("{path}/status"), &json!({"status": {"observedGeneration": 1}})).ok();
    cluster.0.delete(&path).ok();
    cluster.0.merge(&path, &json!({"metadata": {"finalizers": null}})).ok();
    assert_eq!(cluster.0.delete(&path).code, 404);
}

#[test]
fn a_tenant_s_endpoint_is_on_the_internet() {
    let cluster = Cluster::shared();
    let inside = [
        "http://127.0.0.1:9000",
        "http://127.1",
        "http://2130706433",
        "http://0x7f.1",
        "http://0.0.0.0",
        "http://0.1.2.3",
        "http://169.254.169.254/latest",
        "https://10.96.0.1",
        "https://172.20.0.1",
        "https://192.168.1.1",
        "https://100.64.0.1",
        "https://168.63.129.16",
        "https://[::1]:9000",
        "https://[::ffff:10.0.0.1]",
        "https://[fd00::1]",
        "https://[fe80::1]",
        "https://[64:ff9b::a00:1]",
        "https://[2002:7f00:1::]",
        "https://[2001:0:1::]",
        "https://[64:ff9b:1::1]",
        "https://[100::1]",
        "https://[fec0::1]",
        "https://192.0.0.8",
        "https://198.18.0.1",
        "https://198.19.255.255",
        "https://240.0.0.1",
        "https://255.255.255.255",
        "http://localhost:9000",
        "http://a.LOCALHOST",
        "http://minio",
        "http://minio.storage.svc:9000",
        "http://minio.storage.svc.cluster.local",
        "http://minio.storage.svc.k8s.example.org",
        "http://node.internal.",
        "nonsense",
    ];
    for (number, endpoint) in inside.iter().enumerate() {
        let url = format!("s3://bucket/prefix?endpoint={endpoint}");
        cluster.refuses(&format!("inside-{number}"), &json!({"url": url}), "is on the internet");
    }
    for (name, query) in [
        ("encoded", "endpoint=http%3A%2F%2F127.0.0.1"),
        ("encoded-name", "%65ndpoint=http://127.0.0.1"),
        ("second", "endpoint=https://s3.example.org&endpoint=http://127.0.0.1"),
    ] {
        cluster.refuses(name, &json!({"url": format!("s3://bucket/prefix?{query}")}), "is on the internet");
    }
    // What one parser leaves out and another one reads.
    for (name, query) in [
        ("semicolon", "endpoint=http://minio.storage.svc/;"),
        ("bare-percent", "endpoint=http://minio.storage.svc/%"),
        ("half-an-escape", "endpoint=http://minio.storage.svc/%2"),
        ("no-escape", "endpoint=http://minio.storage.svc/%zz"),
        ("nearly-an-escape", "endpoint=http://minio.storage.svc/%2g"),
    ] {
        cluster.refuses(name, &json!({"url": format!("s3://bucket/prefix?{query}")}), "has no ';', and no '%'");
    }
    let outside = [
        "https://s3.example.org:9000",
        "https://192.0.2.1",
        "https%3A%2F%2Fs3.example.org",
        "https://[2001:db8::1]",
        "https://S3.eu-west-1.example.ORG.",
    ];
    for (number, endpoint) in outside.iter().enumerate() {
        let url = format!("s3://bucket/prefix?region=r&endpoint={endpoint}");
        cluster.create("shop", &format!("outside-{number}"), &json!({"url": url})).ok();
    }
}
