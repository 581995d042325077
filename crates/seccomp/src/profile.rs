//! What a profile says, and its JSON form (OCI runtime spec "Seccomp", and Docker's with includes and excludes).

use serde::Deserialize;

use crate::SeccompError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Allow,
    /// The call fails with this errno.
    Errno(u16),
    KillThread,
    KillProcess,
    Trap,
    Trace(u16),
    Log,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// `argument & value == second`
    MaskedEqual,
}

/// Of one argument, as 64 bits without a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Condition {
    /// 0 to 5.
    pub index: u8,
    pub compare: Compare,
    pub value: u64,
    pub second: u64,
}

/// These calls, under all of these conditions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    pub names: Vec<String>,
    pub action: Action,
    pub conditions: Vec<Condition>,
}

/// Rules in order; of several for a call, the first whose conditions hold counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Profile {
    pub default: Action,
    pub rules: Vec<Rule>,
    /// For seccomp(2): SECCOMP_FILTER_FLAG_*.
    pub flags: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    syscalls: Vec<Entry>,
    #[serde(default)]
    flags: Vec<String>,
    listener_path: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    includes: Option<Only>,
    excludes: Option<Only>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Docker's conditions on the container.
#[derive(Deserialize, Default)]
struct Only {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
}

/// A profile file; real ones are some tens of KiB.
const JSON_MAX: usize = 1024 * 1024;
const RULES: usize = 4096;

fn action(field: &str, text: &str, errno: Option<u16>) -> Result<Action, SeccompError> {
    /// EPERM, what the spec gives when a profile names none.
    const EPERM: u16 = 1;
    Ok(match text {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(errno.unwrap_or(EPERM)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_TRACE" => Action::Trace(errno.unwrap_or(EPERM)),
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_NOTIFY" => return Err(fail(field, "SCMP_ACT_NOTIFY is not supported yet")),
        other => return Err(fail(field, format!("unknown action {other:?}"))),
    })
}

fn fail(field: impl Into<String>, problem: impl Into<String>) -> SeccompError {
    SeccompError::Field { field: field.into(), problem: problem.into() }
}

impl Profile {
    /// A JSON profile; `caps` decides about rules that ask for capabilities.
    pub fn from_json(bytes: &[u8], caps: u64) -> Result<Self, SeccompError> {
        if bytes.len() > JSON_MAX {
            return Err(SeccompError::Json(format!("it is larger than {JSON_MAX} bytes")));
        }
        let document: Document =
            serde_json::from_slice(bytes).map_err(|e| SeccompError::Json(e.to_string()))?;
        if document.listener_path.is_some() {
            return Err(fail("listenerPath", "is not supported yet"));
        }
        if document.syscalls.len() > RULES {
            return Err(fail("syscalls", format!("more than {RULES} rules")));
        }
        let mut rules = Vec::new();
        for (n, entry) in document.syscalls.into_iter().enumerate() {
            let field = |part: &str| format!("syscalls[{n}].{part}");
            let holds = |only: &Only| {
                let arch =
                    only.arches.is_empty() || only.arches.iter().any(|a| a == "amd64" || a == "x86_64");
                arch && only.caps.iter().all(|name| crate::default::has(caps, name))
            };
            let excluded = |only: &Only| {
                only.arches.iter().any(|a| a == "amd64" || a == "x86_64")
                    || only.caps.iter().any(|name| crate::default::has(caps, name))
            };
            if !entry.includes.as_ref().is_none_or(holds) || entry.excludes.as_ref().is_some_and(excluded) {
                continue;
            }
            let conditions = entry.args.unwrap_or_default().into_iter().enumerate().map(|(m, argument)| {
                let field = format!("syscalls[{n}].args[{m}]");
                if argument.index > 5 {
                    return Err(fail(format!("{field}.index"), "a system call has six arguments"));
                }
                let compare = match argument.op.as_str() {
                    "SCMP_CMP_EQ" => Compare::Equal,
                    "SCMP_CMP_NE" => Compare::NotEqual,
                    "SCMP_CMP_LT" => Compare::Less,
                    "SCMP_CMP_LE" => Compare::LessOrEqual,
                    "SCMP_CMP_GT" => Compare::Greater,
                    "SCMP_CMP_GE" => Compare::GreaterOrEqual,
                    "SCMP_CMP_MASKED_EQ" => Compare::MaskedEqual,
                    other => {
                        return Err(fail(format!("{field}.op"), format!("unknown comparison {other:?}")));
                    }
                };
                Ok(Condition {
                    index: argument.index,
                    compare,
                    value: argument.value,
                    second: argument.value_two,
                })
            });
            let mut names = entry.names;
            names.extend(entry.name);
            rules.push(Rule {
                names,
                action: action(&field("action"), &entry.action, entry.errno_ret)?,
                conditions: conditions.collect::<Result<_, _>>()?,
            });
        }
        let mut flags = 0;
        for (n, flag) in document.flags.iter().enumerate() {
            // seccomp(2): TSYNC is of no use to one thread, LOG and SPEC_ALLOW are passed on.
            flags |= match flag.as_str() {
                "SECCOMP_FILTER_FLAG_TSYNC" => 0,
                "SECCOMP_FILTER_FLAG_LOG" => 1 << 1,
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => 1 << 2,
                other => return Err(fail(format!("flags[{n}]"), format!("unknown flag {other:?}"))),
            };
        }
        let default = action("defaultAction", &document.default_action, document.default_errno_ret)?;
        Ok(Self { default, rules, flags })
    }
}
