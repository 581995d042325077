//! Users and groups: by number and name, of the image and of the request, and what the status says of them.

use anyhow::Result;
use berth_cri_api::v1::*;

use super::{BARE, Lab, RICH, owned, security};
use crate::checks::Checks;

const MERGE: i32 = SupplementalGroupsPolicy::Merge as i32;
const STRICT: i32 = SupplementalGroupsPolicy::Strict as i32;

/// Who is asked for, and who it must be.
struct Case {
    what: &'static str,
    image: &'static str,
    user: Option<i64>,
    group: Option<i64>,
    name: &'static str,
    more: &'static [i64],
    policy: i32,
    expected: (i64, i64, &'static [i64]),
    home: &'static str,
}

const PLAIN: Case = Case {
    what: "",
    image: RICH,
    user: None,
    group: None,
    name: "",
    more: &[],
    policy: MERGE,
    expected: (0, 0, &[0]),
    home: "/",
};

const CASES: &[Case] = &[
    Case {
        what: "the image's user and group, by name",
        expected: (33, 50, &[50, 60]),
        home: "/srv",
        ..PLAIN
    },
    Case { what: "run_as_user", user: Some(33), expected: (33, 33, &[33, 50, 60]), home: "/srv", ..PLAIN },
    Case { what: "run_as_user 0", user: Some(0), expected: (0, 0, &[0]), home: "/root", ..PLAIN },
    Case {
        what: "run_as_user that passwd does not know",
        user: Some(4242),
        expected: (4242, 0, &[0]),
        ..PLAIN
    },
    Case { what: "run_as_username", name: "web", expected: (33, 33, &[33, 50, 60]), home: "/srv", ..PLAIN },
    Case {
        what: "run_as_user and run_as_group",
        user: Some(33),
        group: Some(77),
        expected: (33, 77, &[50, 60, 77]),
        home: "/srv",
        ..PLAIN
    },
    Case {
        what: "run_as_username and run_as_group",
        name: "web",
        group: Some(77),
        expected: (33, 77, &[50, 60, 77]),
        home: "/srv",
        ..PLAIN
    },
    Case {
        what: "Merge: the image's groups and those given",
        user: Some(33),
        more: &[1000, 60],
        expected: (33, 33, &[33, 50, 60, 1000]),
        home: "/srv",
        ..PLAIN
    },
    Case {
        what: "Strict: only those given",
        user: Some(33),
        more: &[1000],
        policy: STRICT,
        expected: (33, 33, &[33, 1000]),
        home: "/srv",
        ..PLAIN
    },
    Case {
        what: "Strict, and none given: the primary alone",
        name: "web",
        policy: STRICT,
        expected: (33, 33, &[33]),
        home: "/srv",
        ..PLAIN
    },
    Case {
        what: "an image without passwd and group",
        image: BARE,
        more: &[9],
        expected: (0, 0, &[0, 9]),
        ..PLAIN
    },
    Case {
        what: "  and a user by number in it",
        image: BARE,
        user: Some(33),
        group: Some(44),
        expected: (33, 44, &[44]),
        ..PLAIN
    },
];

pub(super) async fn run(checks: &mut Checks, lab: &mut Lab) -> Result<()> {
    for case in CASES {
        let value = |value: Option<i64>| value.map(|value| Int64Value { value });
        let id = lab
            .start(&|c| {
                c.image = Some(ImageSpec { image: case.image.into(), ..Default::default() });
                let s = security(c);
                (s.run_as_user, s.run_as_group) = (value(case.user), value(case.group));
                s.run_as_username = case.name.into();
                s.supplemental_groups = case.more.to_vec();
                s.supplemental_groups_policy = case.policy;
            })
            .await?;
        let (uid, gid, groups) = case.expected;
        let listed = groups.iter().map(|group| format!(" {group}")).collect::<String>();
        for (whose, pid) in [("", "1"), ("  also an exec's", "self")] {
            let text = lab.tool(&id, &["cat", &format!("/proc/{pid}/status")]).await?;
            let lines: Vec<String> =
                text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            let wanted = [
                format!("Uid: {uid} {uid} {uid} {uid}"),
                format!("Gid: {gid} {gid} {gid} {gid}"),
                format!("Groups:{listed}"),
            ];
            let what = if whose.is_empty() { format!("user: {}", case.what) } else { whose.to_owned() };
            checks.that(&what, wanted.iter().all(|line| lines.contains(line)), text);
        }
        let env = lab.tool(&id, &["cat", "/proc/1/environ"]).await?;
        let home = format!("HOME={}", case.home);
        checks.that(&format!("  {home}"), env.split('\0').any(|entry| entry == home), env);
        let user = lab.client.status(&id).await?.user.and_then(|user| user.linux);
        let said =
            user.as_ref().is_some_and(|u| (u.uid, u.gid, u.supplemental_groups.as_slice()) == case.expected);
        checks.that("  and so says the status", said, format!("{user:?}"));
        lab.kill(&id).await?;
    }
    let number = |value| Some(Int64Value { value });
    for (what, image, field, change) in [
        (
            "a name in an image without passwd",
            BARE,
            "run_as_username",
            &(|s: &mut LinuxContainerSecurityContext| s.run_as_username = "web".into())
                as &dyn Fn(&mut LinuxContainerSecurityContext),
        ),
        ("a name that passwd does not have", RICH, "run_as_username", &|s| {
            s.run_as_username = "nobody".into()
        }),
        ("a group without a user", RICH, "run_as_group", &|s| s.run_as_group = number(5)),
        ("a user by both", RICH, "run_as_username", &|s| {
            (s.run_as_user, s.run_as_username) = (number(33), "web".into());
        }),
        ("a negative group", RICH, "run_as_group", &|s| {
            (s.run_as_user, s.run_as_group) = (number(33), number(-1));
        }),
        ("an unknown policy", RICH, "supplemental_groups_policy", &|s| s.supplemental_groups_policy = 7),
    ] {
        let said = lab
            .refusal(&|c| {
                c.image = Some(ImageSpec { image: image.into(), ..Default::default() });
                c.args = owned(&["true"]);
                change(security(c));
            })
            .await;
        checks.that(&format!("user: refused, with its field: {what}"), said.contains(field), said);
    }
    Ok(())
}
