//! Which system calls there are: profiles as Docker writes them, of which OCI's are a part.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// Which system calls a container's processes have.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// Those that containers need.
    #[default]
    Default,
    /// All.
    Unconfined,
    /// Those that a profile says, in Docker's form or OCI's.
    #[schema(value_type = Object)]
    Profile(Value),
}

impl Seccomp {
    /// Whether nothing was said.
    pub fn is_default(&self) -> bool {
        *self == Self::Default
    }
}

/// What the conditions of a profile are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine<'a> {
    /// The architecture as OCI spells it, e.g. `amd64`.
    pub arch: &'a str,
    /// The kernel's version.
    pub kernel: (u32, u32),
    /// The container's capabilities, as `CAP_CHOWN`.
    pub capabilities: &'a [String],
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<Arch>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Arch {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    names: Option<Vec<String>>,
    /// Docker's older form of `names`.
    #[serde(default)]
    name: Option<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
    #[serde(default)]
    includes: Option<Conditions>,
    #[serde(default)]
    excludes: Option<Conditions>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Conditions {
    #[serde(default)]
    arches: Vec<String>,
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// `SCMP_ACT_NOTIFY` is not among them: it needs a process of the host that answers.
const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

const OPERATORS: &[&str] =
    &["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];

/// Whether it is a profile. An error says what is wrong with it.
///
/// # Errors
/// If it is not, has fields that nobody knows, or asks for what there is not.
pub fn check_profile(profile: &Value) -> Result<(), String> {
    let profile: Profile = serde_json::from_value(profile.clone()).map_err(|why| why.to_string())?;
    let rules = profile.syscalls.as_deref().unwrap_or_default();
    let actions = rules.iter().map(|rule| &rule.action).chain([&profile.default_action]);
    if let Some(action) = actions.into_iter().find(|action| !ACTIONS.contains(&action.as_str())) {
        return Err(format!("{action:?} is not an action; write one of {}", ACTIONS.join(", ")));
    }
    let arguments = rules.iter().flat_map(|rule| rule.args.iter().flatten());
    for argument in arguments {
        if !OPERATORS.contains(&argument.op.as_str()) {
            return Err(format!("{:?} is not a comparison; write one of {}", argument.op, OPERATORS.join(", ")));
        }
        if argument.index > 5 {
            return Err(format!("{} is not the number of an argument, from 0 to 5", argument.index));
        }
    }
    for rule in rules {
        if rule.names.as_ref().is_none_or(Vec::is_empty) && rule.name.is_none() {
            return Err("a rule names no system call".into());
        }
        for conditions in [&rule.includes, &rule.excludes].into_iter().flatten() {
            if let Some(text) = conditions.min_kernel.as_deref().filter(|text| version(text).is_none()) {
                return Err(format!("{text:?} is not a kernel's version; write e.g. 4.8"));
            }
        }
    }
    Ok(())
}

/// The `linux.seccomp` of an OCI specification that a profile is on this machine.
///
/// # Errors
/// As [`check_profile`].
pub fn profile_for(profile: &Value, machine: &Machine<'_>) -> Result<Value, String> {
    check_profile(profile)?;
    let profile: Profile = serde_json::from_value(profile.clone()).map_err(|why| why.to_string())?;
    let mut architectures = profile.architectures.unwrap_or_default();
    if let Some(own) = native(machine.arch) {
        let mapped = profile.arch_map.into_iter().flatten().find(|arch| arch.architecture == own);
        architectures.extend(
            mapped
                .into_iter()
                .flat_map(|arch| [vec![arch.architecture], arch.sub_architectures.unwrap_or_default()].concat()),
        );
    }
    let mut rules = Vec::new();
    for rule in profile.syscalls.into_iter().flatten() {
        let included = rule.includes.as_ref().is_none_or(|conditions| conditions.all(machine));
        if !included || rule.excludes.as_ref().is_some_and(|conditions| conditions.any(machine)) {
            continue;
        }
        let names: Vec<String> = rule.names.into_iter().flatten().chain(rule.name).collect();
        let mut made = json!({"names": names, "action": rule.action});
        if let Some(errno) = rule.errno_ret {
            made["errnoRet"] = json!(errno);
        }
        if let Some(args) = rule.args.filter(|args| !args.is_empty()) {
            made["args"] = json!(args);
        }
        rules.push(made);
    }
    let mut made = json!({"defaultAction": profile.default_action, "syscalls": rules});
    if !architectures.is_empty() {
        made["architectures"] = json!(architectures);
    }
    if let Some(errno) = profile.default_errno_ret {
        made["defaultErrnoRet"] = json!(errno);
    }
    if let Some(flags) = profile.flags {
        made["flags"] = json!(flags);
    }
    Ok(made)
}

impl Conditions {
    /// All that is asked for is there.
    fn all(&self, machine: &Machine<'_>) -> bool {
        let caps = self.caps.iter().all(|cap| machine.capabilities.contains(cap));
        let arch = self.arches.is_empty() || self.arches.iter().any(|arch| arch == machine.arch);
        caps && arch && self.min_kernel.as_deref().and_then(version).is_none_or(|least| machine.kernel >= least)
    }

    /// Something of what is asked for is there.
    fn any(&self, machine: &Machine<'_>) -> bool {
        self.caps.iter().any(|cap| machine.capabilities.contains(cap))
            || self.arches.iter().any(|arch| arch == machine.arch)
            || self.min_kernel.as_deref().and_then(version).is_some_and(|least| machine.kernel >= least)
    }
}

fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// libseccomp's name of the architecture.
fn native(arch: &str) -> Option<&'static str> {
    match arch {
        "amd64" => Some("SCMP_ARCH_X86_64"),
        "arm64" => Some("SCMP_ARCH_AARCH64"),
        "riscv64" => Some("SCMP_ARCH_RISCV64"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dockers() -> Value {
        json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "archMap": [
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null},
            ],
            "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "", "includes": {}, "excludes": {}},
                {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
                {"name": "personality", "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
            ],
        })
    }

    fn names(arch: &str, kernel: (u32, u32), capabilities: &[String]) -> Vec<String> {
        let made = profile_for(&dockers(), &Machine { arch, kernel, capabilities }).expect("is one");
        let rules = made["syscalls"].as_array().expect("a list");
        rules.iter().map(|rule| rule["names"][0].as_str().expect("a name").to_owned()).collect()
    }

    #[test]
    fn conditions_are_about_architecture_kernel_and_rights() {
        assert_eq!(names("amd64", (6, 1), &[]), ["read", "ptrace", "clone", "arch_prctl", "personality"]);
        assert_eq!(names("arm64", (4, 4), &["CAP_SYS_ADMIN".into()]), ["read", "mount", "personality"]);
        let machine = Machine { arch: "amd64", kernel: (6, 1), capabilities: &[] };
        let made = profile_for(&dockers(), &machine).expect("is one");
        assert_eq!(made["architectures"], json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]));
        assert_eq!(made["defaultErrnoRet"], json!(1));
        assert_eq!(made["syscalls"][2], json!({"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}));
        assert_eq!(made["syscalls"][4]["args"][0]["valueTwo"], json!(0));
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        for (wrong, part) in [
            (json!("unconfined"), "invalid type"),
            (json!({}), "defaultAction"),
            (json!({"defaultAction": "ALLOW"}), "\"ALLOW\" is not an action"),
            (json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}), "listenerPath"),
            (rule(json!({"names": ["a"], "action": "SCMP_ACT_NOTIFY"})), "SCMP_ACT_NOTIFY"),
            (rule(json!({"names": [], "action": "SCMP_ACT_ALLOW"})), "no system call"),
            (rule(json!({"names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "new"}})), "\"new\""),
            (
                rule(
                    json!({"names": ["a"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 9, "value": 0, "op": "SCMP_CMP_EQ"}]}),
                ),
                "from 0 to 5",
            ),
            (
                rule(
                    json!({"names": ["a"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0, "op": "=="}]}),
                ),
                "\"==\" is not a comparison",
            ),
        ] {
            let why = check_profile(&wrong).expect_err("is refused");
            assert!(why.contains(part), "{wrong}: {why}");
        }
    }
}
