//! Who a container's process is: the request over the image, names looked up in the image's files.

use berth_model::{ContainerSecurity, GroupsPolicy};
use serde::{Deserialize, Serialize};

use crate::PlanError;

/// A user as numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    /// For setgroups(2): the primary group included, sorted, each once.
    pub groups: Vec<u32>,
    /// From passwd; `/` when it has no line for the user.
    pub home: String,
    /// From passwd; empty when unknown.
    pub name: String,
}

const CONTEXT: &str = "config.linux.security_context";
/// More lines than any image has; the rest is not read (CVE-2026-47262).
const LINES: usize = 65_536;
/// Linux: NGROUPS_MAX.
const GROUPS: usize = 65_536;

struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd(file: Option<&[u8]>) -> impl Iterator<Item = PasswdLine<'_>> {
    lines(file).filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(1).unwrap_or("");
        Some(PasswdLine { name, uid: number(uid)?, gid: number(gid)?, home })
    })
}

fn groups(file: Option<&[u8]>) -> impl Iterator<Item = (&str, u32, &str)> {
    lines(file).filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, number(gid)?, fields.next().unwrap_or("")))
    })
}

fn lines(file: Option<&[u8]>) -> impl Iterator<Item = &str> {
    let lines = file.unwrap_or_default().split(|b| *b == b'\n').take(LINES);
    lines
        .filter_map(|line| std::str::from_utf8(line).ok())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Strict: digits only, within 32 bits (CVE-2024-40635: an overflow must not become root). The highest value means
/// "leave unchanged" to setuid(2) and its like: an image that names it would keep the daemon's user.
fn number(text: &str) -> Option<u32> {
    let parsed = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    parsed.filter(|n| *n != u32::MAX)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn id(field: &str, value: i64) -> Result<u32, PlanError> {
    // See `number` about the highest value.
    let fits = u32::try_from(value).ok().filter(|n| *n != u32::MAX);
    fits.ok_or_else(|| {
        PlanError::invalid(format!("{CONTEXT}.{field}"), format!("{value} is no user or group id"))
    })
}

/// The user and groups of a container. `passwd_file` and `group_file` are the image's, `None` when it has none.
pub fn resolve_user(
    security: &ContainerSecurity,
    image_user: &str,
    passwd_file: Option<&[u8]>,
    group_file: Option<&[u8]>,
) -> Result<ResolvedUser, PlanError> {
    let (wanted, wanted_group) = asked(security, image_user)?;
    let must_exist = !security.run_as_username.is_empty();
    // What the request calls a name is one: digits must not find the user of that number.
    let by_number = !must_exist && is_number(&wanted);
    let line = passwd(passwd_file).find(|line| match by_number {
        true => number(&wanted) == Some(line.uid),
        false => line.name == wanted,
    });
    let (uid, passwd_gid) = match (&line, number(&wanted).filter(|_| by_number)) {
        (Some(line), _) => (line.uid, Some(line.gid)),
        (None, Some(uid)) => (uid, None),
        // A number that is none is the image's: those of the request were checked.
        (None, None) if by_number => {
            return Err(PlanError::invalid("image user", format!("{wanted} is no user id")));
        }
        (None, None) => {
            let field = match must_exist {
                true => format!("{CONTEXT}.run_as_username"),
                false => "image user".to_owned(),
            };
            return Err(PlanError::invalid(field, format!("the image's /etc/passwd has no user {wanted:?}")));
        }
    };
    let gid = match (security.run_as_group, wanted_group.as_deref()) {
        (Some(gid), _) => id("run_as_group", gid)?,
        (None, Some(group)) if is_number(group) => number(group)
            .ok_or_else(|| PlanError::invalid("image user", format!("{group} is no group id")))?,
        (None, Some(group)) => {
            groups(group_file).find(|(name, ..)| *name == group).map(|(_, gid, _)| gid).ok_or_else(|| {
                PlanError::invalid("image user", format!("the image's /etc/group has no group {group:?}"))
            })?
        }
        (None, None) => passwd_gid.unwrap_or(0),
    };
    let name = line.as_ref().map_or("", |line| line.name);
    let mut all = vec![gid];
    if security.groups_policy == GroupsPolicy::Merge && !name.is_empty() {
        let member = |members: &str| members.split(',').any(|m| m == name);
        all.extend(groups(group_file).filter(|(_, _, members)| member(members)).map(|(_, gid, _)| gid));
    }
    for group in &security.supplemental_groups {
        all.push(id("supplemental_groups", *group)?);
    }
    all.sort_unstable();
    all.dedup();
    if all.len() > GROUPS {
        let field = format!("{CONTEXT}.supplemental_groups");
        return Err(PlanError::invalid(field, format!("with the image's more than {GROUPS} groups")));
    }
    let home = line.as_ref().map_or("", |line| line.home);
    let home = if home.starts_with('/') && !home.chars().any(char::is_control) { home } else { "/" };
    Ok(ResolvedUser { uid, gid, groups: all, home: home.to_owned(), name: name.to_owned() })
}

/// The user part, and a group part that only an image can name.
fn asked(security: &ContainerSecurity, image_user: &str) -> Result<(String, Option<String>), PlanError> {
    match (security.run_as_user, security.run_as_username.as_str()) {
        (Some(_), name) if !name.is_empty() => Err(PlanError::invalid(
            format!("{CONTEXT}.run_as_username"),
            "must not be given together with run_as_user",
        )),
        (Some(uid), _) => Ok((id("run_as_user", uid)?.to_string(), None)),
        (None, "") if security.run_as_group.is_some() => {
            Err(PlanError::invalid(format!("{CONTEXT}.run_as_group"), "needs run_as_user or run_as_username"))
        }
        (None, "") => {
            let (user, group) = match image_user.split_once(':') {
                Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
                None => (image_user, None),
            };
            Ok((if user.is_empty() { "0" } else { user }.to_owned(), group.map(str::to_owned)))
        }
        (None, name) => Ok((name.to_owned(), None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:w:/srv:/bin/sh\n1234:x:7:7::/:\nbad line\nsame:x:4294967295:0::/:\n";
    const GROUP: &[u8] = b"root:x:0:\nwww:x:44:\nextra:x:50:web,other\nnum:x:60:root\n";

    fn check(security: ContainerSecurity, image_user: &str, expected: Result<(u32, u32, &[u32]), &str>) {
        let found = resolve_user(&security, image_user, Some(PASSWD), Some(GROUP));
        match (found, expected) {
            (Ok(user), Ok((uid, gid, groups))) => {
                assert_eq!((user.uid, user.gid, user.groups.as_slice()), (uid, gid, groups), "{image_user}");
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error} lacks {part}"),
            (found, expected) => panic!("{image_user}: {found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn of_the_image() {
        let none = ContainerSecurity::default;
        check(none(), "", Ok((0, 0, &[0, 60])));
        check(none(), "web", Ok((33, 44, &[44, 50])));
        check(none(), "33", Ok((33, 44, &[44, 50])));
        check(none(), "web:root", Ok((33, 0, &[0, 50])));
        check(none(), "web:9", Ok((33, 9, &[9, 50])));
        check(none(), "777", Ok((777, 0, &[0])));
        check(none(), "777:8", Ok((777, 8, &[8])));
        // Digits are never a name.
        check(none(), "1234", Ok((1234, 0, &[0])));
        check(none(), "nobody", Err("no user \"nobody\""));
        check(none(), "web:none", Err("no group \"none\""));
        check(none(), "4294967296", Err("no user id"));
        check(none(), "4294967295", Err("no user id"));
        check(none(), "web:4294967295", Err("no group id"));
        // Its line in passwd would leave the process with the daemon's own user.
        check(none(), "same", Err("no user \"same\""));
    }

    #[test]
    fn of_the_request() {
        let user = |uid| ContainerSecurity { run_as_user: Some(uid), ..Default::default() };
        check(user(33), "root", Ok((33, 44, &[44, 50])));
        check(user(5), "web:www", Ok((5, 0, &[0])));
        check(user(-1), "", Err("run_as_user"));
        check(user(1 << 32), "", Err("run_as_user"));
        check(ContainerSecurity { run_as_group: Some(5), ..user(33) }, "", Ok((33, 5, &[5, 50])));
        check(ContainerSecurity { run_as_group: Some(5), ..Default::default() }, "", Err("run_as_group"));
        check(ContainerSecurity { run_as_username: "web".into(), ..user(3) }, "", Err("run_as_username"));
        check(
            ContainerSecurity { run_as_username: "web".into(), ..Default::default() },
            "",
            Ok((33, 44, &[44, 50])),
        );
        check(
            ContainerSecurity { run_as_username: "no".into(), ..Default::default() },
            "",
            Err("security_context.run_as_username"),
        );
        // CRI comment on `run_as_username`: the name must be in the image's passwd, also when it looks like a number.
        check(
            ContainerSecurity { run_as_username: "888".into(), ..Default::default() },
            "",
            Err("security_context.run_as_username"),
        );
        // Nor is it the number of a user that is there.
        for number in ["33", "0", "0000"] {
            check(
                ContainerSecurity { run_as_username: number.into(), ..Default::default() },
                "",
                Err("security_context.run_as_username"),
            );
        }
    }

    #[test]
    fn supplemental_groups_by_policy() {
        let with = |groups_policy| ContainerSecurity {
            run_as_user: Some(33),
            supplemental_groups: vec![70, 44, 70],
            groups_policy,
            ..Default::default()
        };
        check(with(GroupsPolicy::Merge), "", Ok((33, 44, &[44, 50, 70])));
        check(with(GroupsPolicy::Strict), "", Ok((33, 44, &[44, 70])));
    }

    #[test]
    fn images_without_files() {
        let user = resolve_user(&ContainerSecurity::default(), "12:13", None, None).unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (12, 13, "/"));
        assert!(resolve_user(&ContainerSecurity::default(), "web", None, None).is_err());
    }
}
