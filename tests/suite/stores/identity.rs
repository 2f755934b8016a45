//! Credentials that are exchanged for something else: a web identity's token, and a pod's. The S3 server of the other tests
//! knows no session tokens, so one that is as good as empty stands in for it.

use std::process::{Child, Command};

use super::*;

const TOKEN: &str = "a token of the test";

/// Answers as AWS' token service, as the agent of EKS' pod identities, and as S3 does of a bucket with nothing in it; all
/// with the S3 server's own certificate, if it is given one. Prints its port.
const EXCHANGE: &str = r#"
import http.server, json, ssl, sys, urllib.parse
token, *certificate = sys.argv[1:]
key, secret, session, until = "ASIAEXCHANGED", "exchanged", "the session", "2100-01-01T00:00:00Z"

class Exchange(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        wanted = {"Action": ["AssumeRoleWithWebIdentity"], "RoleArn": ["arn:aws:iam::1:role/remora"], "WebIdentityToken": [token]}
        self.answer(wanted.items() <= asked.items(), 200, "<AssumeRoleWithWebIdentityResponse>"
            f"<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{key}</AccessKeyId>"
            f"<SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{session}</SessionToken>"
            f"<Expiration>{until}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>"
            "</AssumeRoleWithWebIdentityResponse>")

    def do_GET(self):
        if self.path == "/credentials":
            given = {"AccessKeyId": key, "SecretAccessKey": secret, "Token": session, "Expiration": until}
            return self.answer(self.headers.get("Authorization") == token, 200, json.dumps(given))
        signed = f"Credential={key}/" in self.headers.get("Authorization", "")
        self.answer(signed and self.headers.get("x-amz-security-token") == session, 404, "")

    do_HEAD = do_GET

    def answer(self, known, status, text):
        text = (text if known else "who is that?").encode() * (self.command != "HEAD")
        self.send_response(status if known else 403)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Exchange)
if certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"#;

struct Exchange {
    server: Child,
    port: u16,
}

impl Exchange {
    fn start(certificate: &[PathBuf]) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "/usr/bin/python3", "-c", EXCHANGE, TOKEN]).args(certificate);
        let mut server = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut port).unwrap();
        Self { server, port: port.trim().parse().unwrap() }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = Lab::shared().scratch("identity").join(name);
    fs::write(&path, text).unwrap();
    path
}

/// With the right token the bucket is found to be no repository; without, nobody is let in.
fn assert_exchanged(remora: &Remora, token_file: &str) {
    remora.clone().with(token_file, file("known", TOKEN)).fails(["points"], 3, "remora repo init");
    remora.clone().with(token_file, file("unknown", "another token")).fails(["points"], 9, "403");
}

#[test]
fn a_web_identity_is_exchanged_for_credentials() {
    let s3 = S3::start_with(Transport::Https);
    let exchange = Exchange::start(&s3.certificate());
    let endpoint = format!("https://localhost:{}", exchange.port);
    let remora = Remora::new(Lab::shared(), format!("s3://backups?endpoint={endpoint}&region=us-east-1"))
        .with("REMORA_CA_FILE", s3.ca_file())
        .with("AWS_ENDPOINT_URL_STS", endpoint)
        .with("AWS_ROLE_ARN", "arn:aws:iam::1:role/remora");
    assert_exchanged(&remora, "AWS_WEB_IDENTITY_TOKEN_FILE");
}

#[test]
fn a_pods_identity_is_exchanged_for_credentials() {
    let exchange = Exchange::start(&[]);
    let endpoint = format!("http://127.0.0.1:{}", exchange.port);
    let remora = Remora::new(Lab::shared(), format!("s3://backups?endpoint={endpoint}&region=us-east-1"))
        .with("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{endpoint}/credentials"));
    assert_exchanged(&remora, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
}
