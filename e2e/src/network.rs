//! Pods' networks on a machine of the lane's own: a network namespace with an uplink, and somebody outside behind it. The same
//! is asked of every kind of network a node can be given.

/// That something holds of what was found, or an error that shows it.
macro_rules! holds {
    ($condition:expr, $($found:tt)+) => { anyhow::ensure!($condition, $($found)+) };
}

mod addresses;
mod churn;
mod kind;
mod machine;
pub(crate) mod neighbours;
mod others;
mod pods;
mod ports;
mod restarts;
mod traffic;

use anyhow::Result;

use self::kind::Kind;
use self::machine::Machine;
use crate::checks::Checks;

pub(crate) async fn lane(checks: &mut Checks) -> Result<()> {
    let machine = Machine::new()?;
    for kind in Kind::ALL {
        let mut daemon = kind.daemon().await?;
        println!("  {}", kind.name());
        let done = async {
            pods::all(checks, &machine, &mut daemon).await?;
            ports::all(checks, &machine, &mut daemon, kind).await?;
            restarts::all(checks, &machine, &mut daemon).await?;
            churn::all(checks, &machine, &mut daemon).await?;
            if kind == Kind::Embedded {
                addresses::all(checks, &machine, &mut daemon).await?;
            }
            anyhow::Ok(())
        }
        .await;
        daemon.finish(done).await?;
        let left = machine.left().await;
        checks.that("  after the reset the machine's network is as it was", left.is_empty(), left.join("; "));
    }
    Ok(())
}
