//! The registry's documents: index, manifest, image configuration, and the choice among the variants of an index.
//!
//! Only the fields that we need; unknown ones are ignored, because registries serve both Docker's and OCI's forms.

use std::collections::BTreeMap;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::types::{Image, ImageHealth};
use hivemind_core::{
    model::{PortProto, Protocol},
    spec::v1::Check,
};

/// The manifests and indexes that we can read, as the `Accept` header lists them.
pub(super) const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// Larger manifests and configurations are refused: they are held in memory.
pub(super) const MAX_DOCUMENT: i64 = 8 << 20;

/// Where content is: its type, digest and size.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: i64,
    #[serde(default)]
    pub urls: Option<Vec<String>>,
    #[serde(default)]
    pub platform: Option<Platform>,
}

/// What a variant of an image is for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub variant: Option<String>,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_deref().filter(|v| !v.is_empty()).map_or(Ok(()), |v| write!(f, "/{v}"))
    }
}

/// A manifest or an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

/// One variant of an image: its configuration and its layers, lowest first.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

impl Document {
    /// Reads a manifest or an index. The error says what is wrong with it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Raw {
            schema_version: u32,
            manifests: Option<Vec<Descriptor>>,
            config: Option<Descriptor>,
            layers: Option<Vec<Descriptor>>,
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| format!("its manifest cannot be read: {e}"))?;
        if raw.schema_version != 2 {
            return Err(format!("its manifest has the schema version {}, only 2 is supported", raw.schema_version));
        }
        let document = match (raw.manifests, raw.config, raw.layers) {
            (Some(manifests), None, None) => Self::Index(manifests),
            (None, Some(config), Some(layers)) => Self::Manifest(Manifest { config, layers }),
            _ => return Err("its manifest is neither an index nor an image".to_owned()),
        };
        document.check()?;
        Ok(document)
    }

    fn check(&self) -> Result<(), String> {
        let all: Box<dyn Iterator<Item = &Descriptor>> = match self {
            Self::Index(entries) => Box::new(entries.iter()),
            Self::Manifest(m) => {
                if !CONFIG_TYPES.contains(&m.config.media_type.as_str()) {
                    return Err(format!("it is no container image but {:?}", m.config.media_type));
                }
                if m.config.size > MAX_DOCUMENT {
                    return Err(format!("its configuration of {} bytes is too large", m.config.size));
                }
                Box::new(std::iter::once(&m.config).chain(&m.layers))
            }
        };
        for d in all {
            if !is_digest(&d.digest) || d.size < 0 {
                return Err(format!("{:?} of {} bytes is not a valid descriptor", d.digest, d.size));
            }
        }
        Ok(())
    }
}

/// The media type of a manifest or an index: its own word, or what it looks like.
pub(super) fn media_type(document: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let typed = serde_json::from_slice::<Typed>(document).ok();
    let is_index = typed.as_ref().is_some_and(|typed| typed.manifests.is_some());
    typed.and_then(|typed| typed.media_type).unwrap_or_else(|| MANIFEST_TYPES[usize::from(!is_index)].to_owned())
}

/// Whether it is `sha256:` and 64 digits.
pub fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// `sha256:…` of `bytes`.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// The processor we run on: OCI's name of the architecture, and the variants it can run, best first. An entry
/// without a variant counts as `""`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    pub architecture: &'static str,
    pub variants: Vec<&'static str>,
}

impl Machine {
    /// This machine.
    pub(super) fn here() -> Self {
        let (architecture, variants) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", amd64_levels()),
            "aarch64" => ("arm64", vec!["v8", ""]),
            "riscv64" => ("riscv64", vec![""]),
            other => (other, vec![""]),
        };
        Self { architecture, variants }
    }

    /// The best entry for this machine. The error lists what there is.
    pub(super) fn choose<'a>(&self, entries: &'a [Descriptor]) -> Result<&'a Descriptor, Vec<String>> {
        let rank = |d: &Descriptor| {
            let p = d.platform.as_ref()?;
            let fits = p.os == "linux" && p.architecture == self.architecture;
            let variant = p.variant.as_deref().unwrap_or_default();
            fits.then(|| self.variants.iter().position(|v| *v == variant)).flatten()
        };
        let best = entries.iter().filter_map(|d| Some((rank(d)?, d))).min_by_key(|(rank, _)| *rank);
        best.map(|(_, d)| d).ok_or_else(|| {
            // Attestations are entries for the platform unknown/unknown.
            let known = entries.iter().filter_map(|d| d.platform.as_ref()).filter(|p| p.os != "unknown");
            known.map(Platform::to_string).collect()
        })
    }
}

#[cfg(target_arch = "x86_64")]
fn amd64_levels() -> Vec<&'static str> {
    let v2 = is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("popcnt");
    let v3 = v2 && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2");
    let v4 = v3 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl");
    let levels = [(v4, "v4"), (v3, "v3"), (v2, "v2"), (true, "v1"), (true, "")];
    levels.into_iter().filter_map(|(has, name)| has.then_some(name)).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_levels() -> Vec<&'static str> {
    vec![""]
}

/// An image's configuration.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ImageConfig {
    #[serde(flatten)]
    pub platform: Platform,
    #[serde(default)]
    config: Option<Process>,
    rootfs: RootFs,
}

impl ImageConfig {
    /// The labels that it was built with; what is no text is left out.
    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        let labels = self.config.as_ref().and_then(|config| config.labels.as_ref());
        let pair = |(key, value): (&String, &serde_json::Value)| Some((key.clone(), value.as_str()?.to_owned()));
        labels.into_iter().flatten().filter_map(pair).collect()
    }
}

#[derive(Clone, Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Process {
    user: Option<String>,
    exposed_ports: Option<serde_json::Map<String, serde_json::Value>>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    labels: Option<serde_json::Map<String, serde_json::Value>>,
    stop_signal: Option<String>,
    volumes: Option<serde_json::Map<String, serde_json::Value>>,
    healthcheck: Option<Healthcheck>,
}

/// Docker's form; durations are nanoseconds, 0 means inherited.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Healthcheck {
    test: Option<Vec<String>>,
    interval: Option<i64>,
    timeout: Option<i64>,
    start_period: Option<i64>,
    retries: Option<u32>,
}

impl ImageConfig {
    /// Reads a configuration. The error says what is wrong with it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|e| format!("its configuration cannot be read: {e}"))
    }

    /// The digests of the unpacked layers, lowest first.
    pub(super) fn diff_ids(&self) -> &[String] {
        &self.rootfs.diff_ids
    }

    /// The names of the snapshots that the layers make, lowest first.
    pub(super) fn chain_ids(&self) -> Vec<String> {
        let mut chain: Vec<String> = Vec::with_capacity(self.rootfs.diff_ids.len());
        for diff in &self.rootfs.diff_ids {
            let id = chain.last().map_or_else(|| diff.clone(), |p| digest_of(format!("{p} {diff}").as_bytes()));
            chain.push(id);
        }
        chain
    }

    /// What `create` needs to know.
    pub(super) fn image(&self, reference: String, digest: String) -> Image {
        let p = self.config.clone().unwrap_or_default();
        let text = |value: Option<String>| value.filter(|v| !v.is_empty());
        let exposed = p.exposed_ports.unwrap_or_default();
        Image {
            reference,
            digest,
            chain_id: self.chain_ids().pop().unwrap_or_default(),
            entrypoint: p.entrypoint.unwrap_or_default(),
            cmd: p.cmd.unwrap_or_default(),
            env: p.env.unwrap_or_default(),
            user: text(p.user),
            workdir: text(p.working_dir),
            stop_signal: text(p.stop_signal),
            exposed: exposed.keys().filter_map(|key| port(key)).collect(),
            volumes: p.volumes.unwrap_or_default().into_iter().map(|(path, _)| path).collect(),
            health: p.healthcheck.and_then(health),
        }
    }
}

/// `80`, `80/tcp`, `53/udp`; anything else cannot be served and is left out.
fn port(text: &str) -> Option<PortProto> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    Some(PortProto { port: port.parse().ok().filter(|p| *p != 0)?, protocol })
}

fn health(h: Healthcheck) -> Option<ImageHealth> {
    let test = h.test?;
    let (kind, rest) = test.split_first()?;
    let command = match kind.as_str() {
        "CMD" => rest.to_vec(),
        "CMD-SHELL" => vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.join(" ")],
        _ => return None,
    };
    let millis = |nanos: Option<i64>| nanos.filter(|n| *n > 0).and_then(|n| u32::try_from(n / 1_000_000).ok());
    (!command.is_empty()).then(|| ImageHealth {
        check: Check::Exec { command },
        interval_ms: millis(h.interval),
        timeout_ms: millis(h.timeout),
        start_period_ms: millis(h.start_period),
        retries: h.retries.filter(|r| *r > 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(digest: u8, platform: &str) -> Descriptor {
        let mut parts = platform.split('/').map(str::to_owned);
        let platform = Platform {
            os: parts.next().unwrap_or_default(),
            architecture: parts.next().unwrap_or_default(),
            variant: parts.next(),
        };
        let digest = format!("sha256:{}", hex(&[digest; 32]));
        Descriptor { media_type: String::new(), digest, size: 1, urls: None, platform: Some(platform) }
    }

    #[test]
    fn chooses_the_best_variant() {
        let amd = Machine { architecture: "amd64", variants: vec!["v3", "v2", "v1", ""] };
        let arm = Machine { architecture: "arm64", variants: vec!["v8", ""] };
        let platforms = ["unknown/unknown", "linux/amd64", "linux/amd64/v4", "linux/amd64/v3", "linux/arm64/v8"];
        let entries: Vec<_> = platforms.iter().zip(0..).map(|(p, n)| entry(n, p)).collect();
        assert_eq!(amd.choose(&entries), Ok(&entries[3]));
        assert_eq!(arm.choose(&entries), Ok(&entries[4]));
        assert_eq!(amd.choose(&entries[..2]), Ok(&entries[1]));
        assert_eq!(arm.choose(&entries[..3]), Err(vec!["linux/amd64".to_owned(), "linux/amd64/v4".to_owned()]));
    }

    #[test]
    fn refuses_what_is_no_image() {
        let d = |media: &str| format!(r#"{{"mediaType":"{media}","digest":"sha256:{}","size":3}}"#, "a".repeat(64));
        let config = d(CONFIG_TYPES[0]);
        let good = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, d("x"));
        assert!(matches!(Document::parse(good.as_bytes()), Ok(Document::Manifest(_))));
        let chart = format!(r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#, d("application/vnd.helm+json"));
        let traversal = good.replace(&"a".repeat(64), "../../etc");
        for bad in ["", "{}", r#"{"schemaVersion":1,"fsLayers":[]}"#, r#"{"schemaVersion":2}"#, &chart, &traversal] {
            assert!(Document::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn chain_ids_are_those_of_the_image_specification() {
        let json =
            r#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:a","sha256:b"]}}"#;
        let chain = ImageConfig::parse(json.as_bytes()).expect("parses").chain_ids();
        assert_eq!(chain, ["sha256:a".to_owned(), digest_of(b"sha256:a sha256:b")]);
    }

    #[test]
    fn reads_what_docker_writes() {
        let json = r#"{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":[]},"config":{
            "User":"", "Env":["A=b"], "Entrypoint":null, "Cmd":["sh"], "WorkingDir":"/w", "StopSignal":"SIGQUIT",
            "ExposedPorts":{"80/tcp":{},"53/udp":{},"9/sctp":{},"0":{},"443":{}}, "Volumes":{"/var/lib/data":{}},
            "Healthcheck":{"Test":["CMD-SHELL","curl x || exit 1"],"Interval":30000000000,"Retries":5}}}"#;
        let image = ImageConfig::parse(json.as_bytes()).expect("parses").image("r".into(), "d".into());
        assert_eq!((image.user, image.workdir.as_deref(), image.cmd), (None, Some("/w"), vec!["sh".to_owned()]));
        assert_eq!(image.exposed.iter().map(PortProto::to_string).collect::<Vec<_>>(), ["443/tcp", "53/udp", "80/tcp"]);
        assert_eq!(image.volumes, ["/var/lib/data"]);
        let health = image.health.expect("has one");
        assert_eq!((health.interval_ms, health.timeout_ms, health.retries), (Some(30_000), None, Some(5)));
        let command = ["/bin/sh", "-c", "curl x || exit 1"].map(str::to_owned).to_vec();
        assert_eq!(health.check, Check::Exec { command });
    }
}
