use std::fmt;
use std::os::fd::BorrowedFd;

use crate::capability::RuntimeConfig;
use crate::{CniResult, Known, PluginError, Version};

/// A pod at a plugin: what the environment and the generated fields of a configuration say to a program.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The network's name.
    pub network: &'a str,
    /// In whose terms the result is told to the plugins after this one; [`CniResult`] itself is of 1.1.
    pub version: Version,
    /// CNI_CONTAINERID.
    pub container: &'a str,
    /// CNI_IFNAME.
    pub interface: &'a str,
    /// Gone: `None`, with DEL alone.
    pub netns: Option<BorrowedFd<'a>>,
    /// What a result's interfaces name as their `sandbox`.
    pub sandbox: &'a str,
    /// The pod's, for people.
    pub namespace: &'a str,
    pub name: &'a str,
    /// What the plugin declared and the pod has.
    pub runtime: &'a RuntimeConfig,
    /// ADD: of the plugin before; DEL and CHECK: of the whole chain's ADD.
    pub previous: Option<&'a CniResult>,
}

impl Call<'_> {
    /// For people: `namespace/name`.
    pub fn pod(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// An interface of a pod that is in use.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InUse {
    pub container: String,
    pub interface: String,
}

/// How much of what a plugin's configuration asks for needs no program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    Everything,
    /// On this machine, as it is now, the program does more; where there is none this is better than nothing.
    Part,
    Nothing,
}

/// Plugins that need no program. Blocking; calls for different pods come from different threads at the same time.
///
/// What is on disk (host-local's addresses) has the format of the programs, so that a node can be switched from one to the
/// other with pods running: a pod is DELeted by whom it was ADDed, new ones come the other way.
pub trait InProcess: fmt::Debug + Send + Sync {
    /// How much of a plugin's task is done here.
    fn does(&self, plugin: &Known) -> Does;
    /// Before an ADD in which a program of this name is run: what it would go on in spite of. It is told of no pod that is refused
    /// here. `runtime`: what it declared and the pod has.
    fn foresee(&self, kind: &str, runtime: &RuntimeConfig) -> Result<(), PluginError>;
    /// Before anything else of an ADD: lo of every pod is up, whoever connects it, since most configurations count on the
    /// runtime for it. `first`: the chain's first plugin, if that is one of these, which may do it on its way.
    fn come(&self, first: Option<&Known>, netns: BorrowedFd<'_>) -> Result<(), PluginError>;
    /// On failure nothing of this plugin's is left.
    fn add(&self, plugin: &Known, call: &Call<'_>) -> Result<CniResult, PluginError>;
    /// Gives everything back, also what is half there or gone already.
    fn del(&self, plugin: &Known, call: &Call<'_>) -> Result<(), PluginError>;
    /// Whether the pod still has what ADD gave it.
    fn check(&self, plugin: &Known, call: &Call<'_>) -> Result<(), PluginError>;
    /// Gives back what is not of these. Other networks are not looked at.
    fn gc(&self, plugin: &Known, network: &str, in_use: &[InUse]) -> Result<(), PluginError>;
    /// Whether ADD could succeed.
    fn status(&self, plugin: &Known, network: &str) -> Result<(), PluginError>;
}
