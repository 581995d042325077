//! A network's plugins one after the other (CNI 1.1, section 3): ADD forwards, DEL backwards, each told what came before.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use berth_ids::{Classify, ErrorClass};
use serde_json::{Map, Value, json};

use crate::conf::declared;
use crate::program::{Bounds, Environment, beginning};
use crate::record::{Record, UsedPlugin};
use crate::turns::Cut;
use crate::{Call, CniResult, InProcess, InUse, Known, PluginError, ProgramError, Programs, Version};

/// How long a plugin may take to say what it speaks.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// A plugin failed.
#[derive(Debug, thiserror::Error)]
#[error("plugin {kind} of network {network}: {verb}")]
pub struct ChainError {
    pub kind: String,
    pub network: String,
    pub verb: &'static str,
    #[source]
    pub source: Box<Failure>,
}

/// What it said.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    InProcess(#[from] PluginError),
    #[error("its result is not understood")]
    Result(#[source] serde_json::Error),
    #[error("its configuration is not understood any more")]
    Forgotten,
}

impl Classify for ChainError {
    fn class(&self) -> ErrorClass {
        match &*self.source {
            Failure::Program(error) => error.class(),
            Failure::InProcess(error) if error.code == PluginError::TRY_AGAIN => ErrorClass::Unavailable,
            Failure::InProcess(error) => error.class.unwrap_or(ErrorClass::Internal),
            _ => ErrorClass::Internal,
        }
    }
}

impl ChainError {
    /// It was ended before it had done all, and nothing was wrong.
    pub(crate) fn is_cut(&self) -> bool {
        matches!(*self.source, Failure::Program(ProgramError::Cut))
    }
}

/// Runs plugins, in-process or as programs.
#[derive(Debug, Clone)]
pub struct Chain {
    pub programs: Arc<Programs>,
    pub in_process: Arc<dyn InProcess>,
    /// New pods are connected by programs in every case.
    pub programs_alone: bool,
}

/// A plugin's place in a call.
struct Step<'a> {
    record: &'a Record,
    plugin: &'a UsedPlugin,
    kind: &'a str,
    netns: Option<BorrowedFd<'a>>,
}

impl Chain {
    /// Connects. `record.result` is what the last plugin said that was done, also on failure: the caller undoes that with
    /// [`Chain::del`], and programs find by it what they keep of the pod. `keep` is given the record before one more program
    /// runs: whoever undoes it after the daemon was killed in the middle of that one knows of those before. `known`: of each
    /// plugin of the record, where it needs no program.
    pub(crate) fn add<E: From<ChainError>>(
        &self,
        record: &mut Record,
        known: &[Option<Known>],
        netns: BorrowedFd<'_>,
        keep: impl Fn(&Record) -> Result<(), E>,
    ) -> Result<CniResult, E> {
        for plugin in record.plugins.iter().filter(|plugin| !plugin.in_process) {
            let step = Step { record, plugin, kind: kind(plugin), netns: Some(netns) };
            let foreseen = self.in_process.foresee(step.kind, &step.runtime());
            foreseen.map_err(|source| step.failed("ADD", source.into()))?;
        }
        if let Some(plugin) = record.plugins.first() {
            let step = Step { record, plugin, kind: kind(plugin), netns: Some(netns) };
            let come = self.in_process.come(known.first().and_then(Option::as_ref), netns);
            come.map_err(|source| step.failed("ADD", source.into()))?;
        }
        let mut previous: Option<CniResult> = None;
        for (at, known) in known.iter().enumerate() {
            if let Some(result) = &previous
                && known.is_none()
            {
                record.result.get_or_insert_with(|| result.write(record.version));
                keep(record)?;
            }
            let plugin = &record.plugins[at];
            let step = Step { record, plugin, kind: kind(plugin), netns: Some(netns) };
            match self.add_one(&step, known.as_ref(), previous.as_ref()) {
                Ok((value, result)) => (record.result, previous) = (value, Some(result)),
                Err(source) => {
                    let error = step.failed("ADD", source);
                    record.result = record.result.take().or_else(|| Some(previous?.write(record.version)));
                    return Err(error.into());
                }
            }
        }
        let result = previous.unwrap_or_default();
        record.result.get_or_insert_with(|| result.write(record.version));
        Ok(result)
    }

    /// Gives what is done, as a program says it.
    fn add_one(
        &self,
        step: &Step<'_>,
        known: Option<&Known>,
        previous: Option<&CniResult>,
    ) -> Result<(Option<Value>, CniResult), Failure> {
        let version = step.record.version;
        if let Some(known) = known {
            let runtime = step.runtime();
            return Ok((None, self.in_process.add(known, &step.call(&runtime, previous))?));
        }
        let input = step.input(step.record.result.as_ref());
        let answer = self.run(step, "ADD", &input, self.programs.timeout)?;
        let garbled = |problem: String| ProgramError::Garbled {
            problem,
            answer: beginning(&answer.stdout),
            stderr: answer.stderr.clone(),
        };
        let value: Value =
            serde_json::from_slice(&answer.stdout).map_err(|error| garbled(error.to_string()))?;
        let told = match value.get("cniVersion").and_then(Value::as_str).filter(|text| !text.is_empty()) {
            Some(text) => text.parse::<Version>().map_err(|error| garbled(error.to_string()))?,
            None => version,
        };
        let read = CniResult::read(value.clone(), told).map_err(|error| garbled(error.to_string()))?;
        // The next plugin is told in the network's version, whatever this one speaks.
        let same = told == version && value.get("cniVersion").is_some();
        Ok((Some(if same { value } else { read.write(version) }), read))
    }

    /// Disconnects, backwards. It ends at the first plugin that fails, except one whose program is not there: nobody is
    /// left whom it could keep from something. `all`: goes on in any case. The first failure is told.
    pub(crate) fn del(
        &self,
        record: &Record,
        netns: Option<BorrowedFd<'_>>,
        all: bool,
    ) -> Result<(), ChainError> {
        let mut first = Ok(());
        for plugin in record.plugins.iter().rev() {
            let step = Step { record, plugin, kind: kind(plugin), netns };
            let Err(source) = self.del_one(&step) else { continue };
            let skipped = matches!(source, Failure::Program(ProgramError::Missing { .. }));
            first = first.and(Err(step.failed("DEL", source)));
            if !skipped && !all {
                break;
            }
        }
        first
    }

    fn del_one(&self, step: &Step<'_>) -> Result<(), Failure> {
        let version = step.record.version;
        let previous = step.record.result.as_ref().filter(|_| version.has_check());
        let done = if step.plugin.in_process {
            let runtime = step.runtime();
            let read = step.record.result.clone().map(|value| CniResult::read(value, version)).transpose();
            // What it said once is gone; what it keeps itself is enough.
            let read = read.unwrap_or_default();
            self.in_process.del(&step.known()?, &step.call(&runtime, read.as_ref())).map_err(Failure::from)
        } else {
            let input = step.input(previous);
            self.run(step, "DEL", &input, self.programs.timeout).map(drop).map_err(Failure::from)
        };
        match done {
            // The plugin has nothing of this pod: as good as given back.
            Err(
                Failure::Program(ProgramError::Refused { error: PluginError { code, .. }, .. })
                | Failure::InProcess(PluginError { code, .. }),
            ) if code == PluginError::UNKNOWN_CONTAINER => Ok(()),
            done => done,
        }
    }

    /// Asks the plugins in their order whether the pod still has what ADD gave it; the first that finds something missing ends
    /// it (CNI 1.1, section 3, "CHECK"). `timeout` is for each.
    pub(crate) fn check(
        &self,
        record: &Record,
        netns: BorrowedFd<'_>,
        timeout: Duration,
    ) -> Result<(), ChainError> {
        let version = record.version;
        for plugin in &record.plugins {
            let step = Step { record, plugin, kind: kind(plugin), netns: Some(netns) };
            let checked = || -> Result<(), Failure> {
                let previous = record.result.clone().unwrap_or_default();
                if !plugin.in_process {
                    let input = step.input(Some(&previous));
                    return Ok(self.run(&step, "CHECK", &input, timeout).map(drop)?);
                }
                let read = CniResult::read(previous, version).map_err(Failure::Result)?;
                let runtime = step.runtime();
                Ok(self.in_process.check(&step.known()?, &step.call(&runtime, Some(&read)))?)
            };
            checked().map_err(|source| step.failed("CHECK", source))?;
        }
        Ok(())
    }

    /// Tells every plugin which pods are connected to the network. All are told unless it is cut short; the first failure is
    /// given back.
    pub(crate) fn gc(
        &self,
        network: &str,
        version: Version,
        plugins: &[UsedPlugin],
        in_use: &[InUse],
        cut: &Cut,
    ) -> Result<(), ChainError> {
        let valid: Vec<Value> = in_use
            .iter()
            .map(|one| json!({ "containerID": one.container, "ifname": one.interface }))
            .collect();
        let mut first = Ok(());
        for plugin in plugins {
            let done = || -> Result<(), Failure> {
                if cut.is_cut() {
                    return Err(ProgramError::Cut.into());
                }
                if plugin.in_process {
                    let known = Known::read(&plugin.conf).ok_or(Failure::Forgotten)?;
                    return Ok(self.in_process.gc(&known, network, in_use)?);
                }
                if version.has_gc() {
                    let mut input = input(network, version, &plugin.conf);
                    input.insert("cni.dev/valid-attachments".into(), valid.clone().into());
                    self.bare(kind(plugin), "GC", &input, Some(cut))?;
                }
                Ok(())
            };
            let failed = |source| ChainError {
                kind: kind(plugin).to_owned(),
                network: network.to_owned(),
                verb: "GC",
                source: Box::new(source),
            };
            first = first.and(done().map_err(failed));
        }
        first
    }

    /// Whether every plugin could connect a pod, where the version lets them say so.
    pub(crate) fn status(
        &self,
        network: &str,
        version: Version,
        plugins: &[UsedPlugin],
    ) -> Result<(), ChainError> {
        for plugin in plugins {
            let asked = || -> Result<(), Failure> {
                if plugin.in_process {
                    let known = Known::read(&plugin.conf).ok_or(Failure::Forgotten)?;
                    return Ok(self.in_process.status(&known, network)?);
                }
                if version.has_gc() {
                    self.bare(kind(plugin), "STATUS", &input(network, version, &plugin.conf), None)?;
                }
                Ok(())
            };
            asked().map_err(|source| ChainError {
                kind: kind(plugin).to_owned(),
                network: network.to_owned(),
                verb: "STATUS",
                source: Box::new(source),
            })?;
        }
        Ok(())
    }

    /// The versions a program speaks; `None` when it does not say, as before CNI 0.2.
    pub(crate) fn speaks(&self, kind: &str) -> Result<Option<Vec<Version>>, ProgramError> {
        self.programs.spoken(kind, || self.ask_version(kind))
    }

    fn ask_version(&self, kind: &str) -> Result<Option<Vec<Version>>, ProgramError> {
        let input = json!({ "cniVersion": Version::V1_1_0 }).to_string();
        // Old plugins want all of the environment for every verb.
        let dummy = Some("dummy");
        let environment = Environment { container: dummy, netns: dummy, interface: dummy, args: Some("") };
        let bounds = VERSION_TIMEOUT.into();
        let answer = match self.programs.run(kind, "VERSION", environment, input.as_bytes(), bounds) {
            Ok(answer) => answer,
            Err(ProgramError::Refused { .. } | ProgramError::Died { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let told: Option<Value> = serde_json::from_slice(&answer.stdout).ok();
        let told = told.as_ref().and_then(|told| told.get("supportedVersions")?.as_array());
        Ok(told.map(|all| all.iter().filter_map(|one| one.as_str()?.parse().ok()).collect()))
    }

    fn run(
        &self,
        step: &Step<'_>,
        verb: &str,
        input: &Map<String, Value>,
        timeout: Duration,
    ) -> Result<crate::program::Answer, ProgramError> {
        let record = step.record;
        // As bound; once the namespace is gone there is no path to tell.
        let netns = match (&record.netns, step.netns) {
            (Some(path), Some(_)) => path.to_string_lossy().into_owned(),
            _ => String::new(),
        };
        let args = record.args();
        let environment = Environment {
            container: Some(&record.container),
            netns: Some(&netns),
            interface: Some(&record.interface),
            args: Some(&args),
        };
        self.programs.run(step.kind, verb, environment, &bytes(input), timeout.into())
    }

    fn bare(
        &self,
        kind: &str,
        verb: &str,
        input: &Map<String, Value>,
        cut: Option<&Cut>,
    ) -> Result<(), ProgramError> {
        let bounds = Bounds { timeout: self.programs.timeout, cut };
        self.programs.run(kind, verb, Environment::default(), &bytes(input), bounds).map(drop)
    }
}

fn bytes(input: &Map<String, Value>) -> Vec<u8> {
    serde_json::to_vec(input).unwrap_or_default()
}

fn kind(plugin: &UsedPlugin) -> &str {
    plugin.conf.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// A plugin's configuration as it is told to a program (CNI 1.1, section 3, "deriving").
fn input(network: &str, version: Version, conf: &Map<String, Value>) -> Map<String, Value> {
    let mut input = conf.clone();
    // What it declares is for the runtime; it is told the values instead.
    input.remove("capabilities");
    input.insert("name".into(), network.into());
    input.insert("cniVersion".into(), version.as_str().into());
    input
}

impl Step<'_> {
    fn failed(&self, verb: &'static str, source: Failure) -> ChainError {
        ChainError {
            kind: self.kind.to_owned(),
            network: self.record.network.clone(),
            verb,
            source: Box::new(source),
        }
    }

    fn known(&self) -> Result<Known, Failure> {
        Known::read(&self.plugin.conf).ok_or(Failure::Forgotten)
    }

    fn runtime(&self) -> crate::RuntimeConfig {
        self.record.runtime.declared(&declared(&self.plugin.conf).unwrap_or_default())
    }

    fn input(&self, previous: Option<&Value>) -> Map<String, Value> {
        let mut input = input(&self.record.network, self.record.version, &self.plugin.conf);
        let runtime = self.runtime().to_map();
        if !runtime.is_empty() {
            input.insert("runtimeConfig".into(), Value::Object(runtime));
        }
        if let Some(previous) = previous.filter(|_| self.record.version.has_chains()) {
            input.insert("prevResult".into(), previous.clone());
        }
        input
    }

    fn call<'a>(&'a self, runtime: &'a crate::RuntimeConfig, previous: Option<&'a CniResult>) -> Call<'a> {
        Call {
            network: &self.record.network,
            version: self.record.version,
            container: &self.record.container,
            interface: &self.record.interface,
            netns: self.netns,
            sandbox: &self.record.sandbox,
            namespace: &self.record.pod.namespace,
            name: &self.record.pod.name,
            runtime,
            previous,
        }
    }
}
