//! Pods' networks on a machine of the lane's own: a network namespace with an uplink, and somebody outside behind it. The same
//! is asked of every kind of network a node can be given.

/// That something holds of what was found, or an error that shows it.
macro_rules! holds {
    ($condition:expr, $($found:tt)+) => { anyhow::ensure!($condition, $($found)+) };
}

mod addresses;
mod churn;
mod fields;
mod firewall;
mod isolation;
mod kind;
mod kube_proxy;
mod limits;
mod machine;
mod mixed;
pub(crate) mod neighbours;
mod others;
mod people;
mod pods;
mod ports;
mod rates;
mod restarts;
mod sctp;
mod services;
mod switch;
mod thousand;
mod traffic;
mod uplink;

use anyhow::Result;

use self::kind::Kind;
use self::machine::Machine;
pub(crate) use self::machine::tool;
use crate::checks::Checks;

pub(crate) async fn lane(checks: &mut Checks, only: Option<&str>) -> Result<()> {
    let only = only.map(Kind::named).transpose()?;
    let machine = Machine::new()?;
    let mut fields = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| only.is_none_or(|only| only == *kind)) {
        let mut daemon = kind.daemon().await?;
        println!("  {}", kind.name());
        let done = async {
            if kind != Kind::Embedded {
                let mut of_kind = Vec::new();
                for scene in &fields::SCENES {
                    of_kind.push(fields::of(&daemon, &machine, kind, scene).await?);
                }
                fields.push(of_kind);
            }
            pods::all(checks, &machine, &mut daemon, kind).await?;
            ports::all(checks, &machine, &mut daemon, kind).await?;
            rates::all(checks, &machine, &daemon).await?;
            sctp::all(checks, &machine, &daemon, kind).await?;
            restarts::all(checks, &machine, &mut daemon, kind).await?;
            churn::all(checks, &daemon, kind).await?;
            match kind {
                Kind::Embedded => {
                    addresses::all(checks, &machine, &mut daemon).await?;
                    people::all(checks, &machine, &mut daemon).await?;
                }
                Kind::InProcess | Kind::Programs => firewall::all(checks, &machine, &daemon, kind).await?,
            }
            if kind == Kind::InProcess {
                mixed::all(checks, &machine, &daemon).await?;
            }
            anyhow::Ok(())
        }
        .await;
        daemon.finish(done).await?;
        if kind != Kind::Embedded {
            checks.note("  a bridge that was there is not removed", fields::away());
        }
        kind::clear(checks, |_| kind == Kind::Programs);
        let left = machine.left().await;
        checks.that("  after the reset the machine's network is as it was", left.is_empty(), left.join("; "));
        uplink::all(checks, &machine, kind).await?;
        if kind == Kind::Embedded {
            isolation::all(checks, &machine).await?;
        }
    }
    match (&fields[..], only) {
        ([in_process, programs], _) => {
            for (scene, (in_process, programs)) in fields::SCENES.iter().zip(in_process.iter().zip(programs))
            {
                fields::compare(checks, scene, in_process, programs);
            }
            switch::all(checks, &machine).await?;
        }
        (_, Some(only)) => println!("  {} alone: compared with nothing", only.name()),
        (found, None) => checks.that("in-process and by programs are compared", false, found.len()),
    }
    if only.is_none_or(|only| only == Kind::Embedded) {
        println!("  a full bridge");
        let mut daemon = thousand::daemon().await?;
        let done = thousand::all(checks, &machine, &mut daemon).await;
        daemon.finish(done).await?;
        let left = machine.left().await;
        checks.that("  after the reset the machine's network is as it was", left.is_empty(), left.join("; "));
    }
    Ok(())
}
