//! Registries as companies have them: with tokens, with passwords, with certificates of their own authority. The
//! registry is a real one; only the server that gives out its tokens is ours.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, anyhow, ensure};
use base64::{Engine as _, engine::general_purpose};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;

use hivemind_tests::unique;
use xtask::{
    daemon::{Daemon, Said},
    image,
    machine::Machine,
    registry::Registry,
};

const USER: &str = "puller";
/// Found nowhere else on the machine.
const PASSWORD: &str = "correct-horse-battery-staple";
const WRONG: &str = "incorrect-horse-battery-staple";
/// What the token server gives tokens for instead of a password.
const IDENTITY: &str = "identity-of-the-puller";
const ISSUER: &str = "issuer-of-the-test";
const SERVICE: &str = "registry-of-the-test";
/// `USER:PASSWORD` with bcrypt, cost 5.
const HTPASSWD: &str = "puller:$2y$05$AkYQMw5NatfNCmOgLFHFSuJHmDNlpj/6Dwad2077Cw3xenEN5GxFe\n";

/// An authority, and a certificate of its for 127.0.0.1.
struct Authority {
    pem: String,
    certificate: String,
    der: Vec<u8>,
    key: KeyPair,
}

impl Authority {
    fn new() -> Result<Self> {
        let mut of_authority = CertificateParams::new(Vec::new())?;
        of_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own_key = KeyPair::generate()?;
        let pem = of_authority.self_signed(&own_key)?.pem();
        let key = KeyPair::generate()?;
        let issuer = Issuer::new(of_authority, own_key);
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
        Ok(Self { pem, certificate: certificate.pem(), der: certificate.der().to_vec(), key })
    }
}

/// Gives out tokens to who has the password, and to nobody else.
struct Tokens {
    asked: Arc<Mutex<Vec<String>>>,
    port: u16,
}

impl Tokens {
    /// Serves until the test's process ends.
    fn serve(machine: &Machine, authority: &Authority) -> Result<Self> {
        let listener = machine.sandbox.on_network(|| Ok(TcpListener::bind("127.0.0.1:0")?))?;
        let port = listener.local_addr()?.port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, der, key) = (Arc::clone(&asked), authority.der.clone(), authority.key.serialize_der());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away gets no answer; the test says so.
                let _ = answer(stream, &seen, &der, &key);
            }
        });
        Ok(Self { asked, port })
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn answer(mut stream: TcpStream, asked: &Mutex<Vec<String>>, der: &[u8], key: &[u8]) -> Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let basic = general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut form = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut form)?;
    let form = String::from_utf8_lossy(&form).into_owned();
    let header = head.lines().find(|line| line.to_lowercase().starts_with("authorization:"));
    // A form says the same as a query.
    let said = format!("{target}&{form}");
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(said);
    let access = json!([{ "type": "repository", "name": "web", "actions": ["pull"] }]);
    let access = access.as_array().cloned().unwrap_or_default();
    let (status, body) = match header {
        // "OAuth2 Token Authentication" of the registry's documentation.
        None if form.contains("grant_type=refresh_token") && form.contains(&format!("refresh_token={IDENTITY}")) => {
            ("200 OK", json!({ "access_token": token(&access, der, key)?, "expires_in": 300 }).to_string())
        }
        None if !form.is_empty() => ("401 Unauthorized", json!({ "details": "no such identity" }).to_string()),
        // As public registries do: a token for nothing, which opens what is public.
        None => ("200 OK", json!({ "token": token(&[], der, key)? }).to_string()),
        Some(line) if line.ends_with(&basic) => {
            ("200 OK", json!({ "token": token(&access, der, key)?, "expires_in": 300 }).to_string())
        }
        Some(_) => ("401 Unauthorized", json!({ "details": "incorrect username or password" }).to_string()),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n")?;
    write!(stream, "Connection: close\r\n\r\n{body}")?;
    Ok(())
}

/// A JSON Web Token, as the registry's documentation describes it: ES256, with the certificate in its head.
fn token(access: &[serde_json::Value], der: &[u8], key: &[u8]) -> Result<String> {
    #[expect(clippy::disallowed_methods, reason = "a token is valid in real time")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let head = json!({ "typ": "JWT", "alg": "ES256", "x5c": [general_purpose::STANDARD.encode(der)] });
    let claims = json!({
        "iss": ISSUER, "sub": USER, "aud": SERVICE, "jti": "one", "access": access,
        "exp": now + 300, "nbf": now - 60, "iat": now,
    });
    let part = |value: &serde_json::Value| general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&head), part(&claims));
    let random = ring::rand::SystemRandom::new();
    let refused = |error: &dyn std::fmt::Display| anyhow!("the key is refused: {error}");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key, &random).map_err(|e| refused(&e))?;
    let signature = key.sign(&random, signed.as_bytes()).map_err(|e| refused(&e))?;
    Ok(format!("{signed}.{}", general_purpose::URL_SAFE_NO_PAD.encode(signature)))
}

/// A machine whose daemon is told of a credentials file, and of registries without TLS.
fn machine(test: &str, plain: &[&str]) -> Result<(Machine, std::path::PathBuf)> {
    let mut machine = Machine::prepare(&unique(test), &[])?;
    machine.push(&image::web()?, "web", "1")?;
    let auth = machine.sandbox.dir().join("auth.json");
    fs::write(&auth, "{}")?;
    let flags = ["--registry-auth", &auth.display().to_string(), "--log-level", "trace"];
    machine.daemon = Daemon::new(&machine.sandbox, &machine.containerd.socket(), plain, &flags)?;
    Ok((machine, auth))
}

fn credentials(file: &Path, registry: &str, password: &str) -> Result<()> {
    let pair = general_purpose::STANDARD.encode(format!("{USER}:{password}"));
    Ok(fs::write(file, json!({ "auths": { registry: { "auth": pair } } }).to_string())?)
}

fn deploy(machine: &Machine, registry: &Registry, name: &str) -> Result<Said> {
    let image = format!("{}/web:1", registry.host());
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", name, "--wait", "--timeout", "30s"])
}

fn refused(said: &Said, code: &str, exit: i32, why: &str) -> Result<()> {
    let well = said.err.contains(&format!("error[{code}]")) && said.code == exit && said.err.contains(why);
    ensure!(well, "expected {code}, {exit}, {why:?}: {said}");
    Ok(())
}

/// Nobody is shown a password: not in the log at its most talkative, not in what commands say, not in a process list.
fn keeps_secrets(machine: &Machine) -> Result<()> {
    let mut shown = vec![("log".to_owned(), machine.daemon.log())];
    for args in [&["events"][..], &["ps", "-o", "json"], &["app", "ls", "-o", "json"]] {
        let said = machine.hivemind(args)?;
        shown.push((args.join(" "), format!("{}{}", said.out, said.err)));
    }
    for process in fs::read_dir("/proc")?.flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        shown.push((process.path().display().to_string(), String::from_utf8_lossy(&line).into_owned()));
    }
    ensure!(shown[0].1.contains("TRACE") || shown[0].1.contains("DEBUG"), "the log is not at its most talkative");
    for (place, text) in shown {
        for password in [PASSWORD, WRONG, IDENTITY] {
            let basic = general_purpose::STANDARD.encode(format!("{USER}:{password}"));
            ensure!(!text.contains(password) && !text.contains(&basic), "a password is shown: {place}");
        }
        ensure!(!text.contains("eyJ"), "a token is shown: {place}");
    }
    Ok(())
}

#[test]
fn a_registry_that_wants_a_token() -> Result<()> {
    let (mut machine, auth) = machine("token", &["127.0.0.1:5001"])?;
    let authority = Authority::new()?;
    let tokens = Tokens::serve(&machine, &authority)?;
    let bundle = machine.sandbox.dir().join("issuer.pem");
    fs::write(&bundle, &authority.pem)?;
    let more = format!(
        "auth:\n  token:\n    realm: 'http://127.0.0.1:{}/token'\n    service: {SERVICE}\n    issuer: {ISSUER}\n    \
         rootcertbundle: '{}'",
        tokens.port,
        bundle.display()
    );
    let registry = machine.registry.beside(&machine.sandbox, 5001, "", &more)?;
    machine.daemon.start(&machine.sandbox)?;
    refused(&deploy(&machine, &registry, "none")?, "E-IMG-003", 5, "none are configured")?;
    credentials(&auth, registry.host(), WRONG)?;
    refused(&deploy(&machine, &registry, "wrong")?, "E-IMG-003", 5, "127.0.0.1:5001")?;
    // The file is read anew: no restart is needed.
    credentials(&auth, registry.host(), PASSWORD)?;
    deploy(&machine, &registry, "right")?.ok()?;
    // With a token instead of a password; a wrong one is none.
    for (identity, well) in [("of-somebody-else", false), (IDENTITY, true)] {
        let entry = json!({ "auth": "PHRva2VuPjo=", "identitytoken": identity });
        fs::write(&auth, json!({ "auths": { registry.host(): entry } }).to_string())?;
        let said = machine.hivemind(&["image", "pull", &format!("{}/web:1", registry.host())])?;
        if well {
            said.ok()?;
        } else {
            refused(&said, "E-IMG-003", 5, "token server 127.0.0.1 refuses (HTTP 401)")?;
        }
    }
    let asked = tokens.asked();
    let scoped = |target: &String| target.contains("repository") && target.contains("web") && target.contains("pull");
    ensure!(asked.iter().all(|target| target.contains(SERVICE)) && asked.iter().any(scoped), "{asked:?}");
    keeps_secrets(&machine)?;
    machine.close()
}

#[test]
fn a_registry_whose_certificate_is_of_an_authority_of_ones_own() -> Result<()> {
    let (mut machine, auth) = machine("tls", &[])?;
    let authority = Authority::new()?;
    let file = |name: &str, text: &str| {
        let path = machine.sandbox.dir().join(name);
        fs::write(&path, text).map(|()| path.display().to_string())
    };
    let (certificate, key) =
        (file("registry.pem", &authority.certificate)?, file("registry.key", &authority.key.serialize_pem())?);
    let (trusted, htpasswd) = (file("authority.pem", &authority.pem)?, file("htpasswd", HTPASSWD)?);
    let registry = machine.registry.beside(
        &machine.sandbox,
        5001,
        &format!("  tls: {{certificate: '{certificate}', key: '{key}'}}"),
        &format!("auth: {{htpasswd: {{realm: test, path: '{htpasswd}'}}}}"),
    )?;
    credentials(&auth, registry.host(), PASSWORD)?;
    machine.daemon.start(&machine.sandbox)?;
    refused(&deploy(&machine, &registry, "unknown")?, "E-IMG-002", 1, "certificate")?;
    ensure!(deploy(&machine, &registry, "unknown")?.err.contains("--registry-ca"), "it is not said how to trust it");
    machine.daemon.stop()?;

    machine.daemon.add_flag("--registry-ca");
    machine.daemon.add_flag(&trusted);
    credentials(&auth, registry.host(), WRONG)?;
    machine.daemon.start(&machine.sandbox)?;
    refused(&deploy(&machine, &registry, "wrong")?, "E-IMG-003", 5, "127.0.0.1:5001")?;
    credentials(&auth, registry.host(), PASSWORD)?;
    deploy(&machine, &registry, "right")?.ok()?;
    keeps_secrets(&machine)?;
    machine.close()
}
