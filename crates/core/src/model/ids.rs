//! Names and keys. A value of one of these types is valid by construction.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not valid: {why}")]
pub struct InvalidName {
    /// What the name was for, e.g. `app name`.
    pub kind: &'static str,
    /// What was given.
    pub value: String,
    /// The rule it breaks, in the user's words.
    pub why: &'static str,
}

/// Checks for a DNS label (RFC 1123): 1 to 63 of `a-z 0-9 -`, no hyphen at either end.
fn check_label(value: &str) -> Result<(), &'static str> {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = value.as_bytes();
    if bytes.is_empty() {
        return Err("it is empty");
    }
    if bytes.len() > 63 {
        return Err("it is longer than 63 characters");
    }
    if bytes.iter().any(u8::is_ascii_uppercase) {
        return Err("use lower-case letters");
    }
    if !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-') {
        return Err("use only a-z, 0-9 and '-'");
    }
    if !edge(bytes.first().copied()) || !edge(bytes.last().copied()) {
        return Err("it must begin and end with a letter or a digit");
    }
    Ok(())
}

/// Checks for a name that Docker gives volumes, configs and secrets: 1 to 128 of letters, digits and `_ . -`, a letter or
/// a digit first.
fn check_word(value: &str) -> Result<(), &'static str> {
    if value.is_empty() {
        return Err("it is empty");
    }
    if value.len() > 128 {
        return Err("it is longer than 128 characters");
    }
    if !value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')) {
        return Err("use only letters, digits, '_', '.' and '-'");
    }
    if !value.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return Err("it must begin with a letter or a digit");
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        name_type!($(#[$doc])* $name, $kind, check_label);
    };
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(value: &str) -> Result<Self, InvalidName> {
                match $check(value) {
                    Ok(()) => Ok(Self(value.to_owned())),
                    Err(why) => Err(InvalidName { kind: $kind, value: value.to_owned(), why }),
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(/// A tenant's name: a DNS label.
    TenantName, "tenant name");
name_type!(/// A namespace's name: a DNS label, unique in its tenant.
    NamespaceName, "namespace name");
name_type!(/// An app's name: a DNS label, unique in its namespace.
    AppName, "app name");
name_type!(/// A service's name: a DNS label, unique in its namespace.
    ServiceName, "service name");
name_type!(/// A policy's name: a DNS label, unique in its namespace.
    PolicyName, "policy name");
name_type!(/// A node's name: a DNS label, unique in the cluster.
    NodeName, "node name");
name_type!(/// A sidecar's name: a DNS label, unique in its app.
    SidecarName, "sidecar name");
name_type!(/// A volume's name, unique in its namespace: letters, digits and `_ . -`, as Docker has them.
    VolumeName, "volume name", check_word);
name_type!(/// The name of a secret or a config, unique among these in its namespace; of the same form as a volume's.
    ContentName, "name", check_word);

macro_rules! id_type {
    ($(#[$doc:meta])* $id:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
        #[serde(transparent)]
        pub struct $id(String);

        impl $id {
            /// Characters in an id.
            pub const LEN: usize = 10;
            const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

            /// The id made of the lowest 50 of `bits`; the caller draws them at random.
            pub fn from_bits(bits: u64) -> Self {
                let letter = |i| char::from(Self::ALPHABET[((bits >> (5 * i)) & 31) as usize]);
                Self((0..Self::LEN).map(letter).collect())
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $id {
            type Err = InvalidName;
            fn from_str(value: &str) -> Result<Self, InvalidName> {
                if value.len() == Self::LEN && value.bytes().all(|b| Self::ALPHABET.contains(&b)) {
                    Ok(Self(value.to_owned()))
                } else {
                    let why = "it must be 10 characters of a-z and 2-7";
                    Err(InvalidName { kind: $kind, value: value.to_owned(), why })
                }
            }
        }

        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id_type!(/// The id of one instance: 10 characters of `a-z 2-7`, unique in the cluster for all time.
    /// It names the containerd container, the network namespace and the log folder.
    InstanceId, "instance id");
id_type!(/// The id of a volume, of the same form: it names its folder. A volume that is made again under an old name has
    /// another id.
    VolumeId, "volume id");

/// Where an object lives: a tenant and one of its namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Scope {
    /// The owner.
    pub tenant: TenantName,
    /// The namespace in it.
    pub namespace: NamespaceName,
}

/// The top of all DNS names that hivemind gives, in lower case.
pub const DNS_ZONE: &str = "hivemind";

/// Whether a DNS name (without a final dot) is one that only hivemind gives.
pub fn in_dns_zone(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|top| top.eq_ignore_ascii_case(DNS_ZONE))
}

/// The tenant that always exists, and the namespace that every tenant has.
const DEFAULT: &str = "default";

impl TenantName {
    /// Whether it is the one that always exists.
    pub fn is_default(&self) -> bool {
        self.0 == DEFAULT
    }
}

impl Scope {
    /// The namespace that every tenant has.
    pub fn default_of(tenant: TenantName) -> Self {
        Self { tenant, namespace: NamespaceName(DEFAULT.to_owned()) }
    }

    /// Whether it is the namespace that every tenant has.
    pub fn is_default_of_tenant(&self) -> bool {
        self.namespace.0 == DEFAULT
    }

    /// `<namespace>.<tenant>.hivemind`: where its services' own DNS names are.
    pub fn dns_domain(&self) -> String {
        format!("{}.{}.{DNS_ZONE}", self.namespace, self.tenant)
    }
}

impl Default for Scope {
    /// `default/default`, which always exists.
    fn default() -> Self {
        Self::default_of(TenantName(DEFAULT.to_owned()))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.namespace)
    }
}

macro_rules! key_type {
    ($(#[$doc:meta])* $key:ident, $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        pub struct $key {
            /// Tenant and namespace.
            pub scope: Scope,
            /// The name in them.
            pub name: $name,
        }

        impl $key {
            /// The key of `name` in `scope`.
            pub fn new(scope: Scope, name: $name) -> Self {
                Self { scope, name }
            }
        }

        /// `tenant/namespace/name`, as store keys and log lines write it.
        impl fmt::Display for $key {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.scope, self.name)
            }
        }
    };
}

key_type!(/// The full name of an app.
    AppKey, AppName);
key_type!(/// The full name of a service.
    ServiceKey, ServiceName);
key_type!(/// The full name of a policy.
    PolicyKey, PolicyName);
key_type!(/// The full name of a volume.
    VolumeKey, VolumeName);
key_type!(/// The full name of a secret or a config.
    ContentKey, ContentName);

#[cfg(test)]
mod tests {
    use super::{AppName, InstanceId, VolumeName};

    #[test]
    fn names_are_dns_labels() {
        let long = "a".repeat(64);
        for (value, ok) in [
            ("web-app", true),
            ("a", true),
            ("9lives", true),
            (&long[..63], true),
            ("", false),
            (&long, false),
            ("Web", false),
            ("-a", false),
            ("a-", false),
            ("a.b", false),
            ("a_b", false),
            ("käse", false),
            ("a/b", false),
        ] {
            assert_eq!(value.parse::<AppName>().is_ok(), ok, "{value:?}");
        }
    }

    #[test]
    fn names_of_volumes_are_dockers_and_no_paths() {
        for (value, ok) in [
            ("db_data", true),
            ("App.Cache-2", true),
            ("9", true),
            ("", false),
            (".", false),
            ("..", false),
            ("_a", false),
            ("a/b", false),
            ("a b", false),
            ("käse", false),
            (&"a".repeat(129), false),
        ] {
            assert_eq!(value.parse::<VolumeName>().is_ok(), ok, "{value:?}");
        }
    }

    #[test]
    fn ids_use_fifty_bits_and_parse_back() {
        let id = InstanceId::from_bits(0x0123_4567_89ab_cdef);
        assert_eq!(id.as_str().len(), InstanceId::LEN);
        assert_eq!(id.as_str().parse::<InstanceId>().as_ref(), Ok(&id));
        assert_ne!(id, InstanceId::from_bits(0x0123_4567_89ab_cdee));
        assert!("short".parse::<InstanceId>().is_err());
    }
}
