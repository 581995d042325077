//! What ginkgo reports, held against the list of what is left out.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::text;
use crate::checks::Checks;

/// Specs by name, with the reason.
pub(crate) struct LeftOut(BTreeMap<String, String>);

impl LeftOut {
    /// A line a spec; a line with `#` gives the reason for those below it.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let mut specs = BTreeMap::new();
        let mut reason = String::new();
        for line in text(path)?.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(words) = line.strip_prefix('#') {
                reason = words.trim().to_owned();
            } else if reason.is_empty() {
                bail!("{}: no reason for {line:?}", path.display());
            } else if specs.insert(line.to_owned(), reason.clone()).is_some() {
                bail!("{}: twice: {line:?}", path.display());
            }
        }
        Ok(Self(specs))
    }
}

struct Spec {
    name: String,
    state: String,
    seconds: f64,
    failure: String,
}

pub(crate) struct Report(Vec<Spec>);

impl Report {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let suites: Value = serde_json::from_str(&text(path)?).with_context(|| path.display().to_string())?;
        let mut specs = Vec::new();
        for suite in suites.as_array().into_iter().flatten() {
            for spec in suite["SpecReports"].as_array().into_iter().flatten() {
                let state = spec["State"].as_str().unwrap_or_default();
                let failure = spec["Failure"]["Message"].as_str().unwrap_or_default();
                // What was filtered out is skipped as well, but without a word; a failed BeforeSuite counts.
                if spec["LeafNodeType"] != "It" && state == "passed"
                    || state == "skipped" && failure.is_empty()
                {
                    continue;
                }
                let mut words: Vec<&str> = spec["ContainerHierarchyTexts"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                words.push(spec["LeafNodeText"].as_str().unwrap_or_default());
                let at = &spec["Failure"]["Location"];
                let file = at["FileName"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
                specs.push(Spec {
                    name: words.join(" ").trim().to_owned(),
                    state: state.to_owned(),
                    seconds: spec["RunTime"].as_f64().unwrap_or_default() / 1e9,
                    failure: format!("{file}:{}: {failure}", at["LineNumber"]),
                });
            }
        }
        if specs.is_empty() {
            bail!("{}: no spec ran", path.display());
        }
        Ok(Self(specs))
    }

    /// Each spec passes, or is on the list and does not; and the list has no spec that is not there.
    pub(crate) fn judge(mut self, checks: &mut Checks, left_out: &LeftOut, some: bool) {
        self.0.sort_by(|one, other| one.name.cmp(&other.name));
        let mut unseen = left_out.0.clone();
        let mut out = 0;
        for spec in &self.0 {
            let passed = spec.state == "passed";
            let reason = unseen.remove(&spec.name);
            let (mark, word) = match (passed, reason) {
                (true, None) => ('✔', String::new()),
                (true, Some(_)) => ('✘', "it passes: take it off the list of what is left out".to_owned()),
                (false, Some(_)) => {
                    out += 1;
                    continue;
                }
                (false, None) => ('✘', format!("{} at {}", spec.state, spec.failure)),
            };
            println!("  {mark} {:<110} {:>6.1} s", spec.name, spec.seconds);
            if mark == '✘' {
                println!("      {}", word.replace('\n', "\n      "));
            }
            checks.count(mark == '✔');
        }
        if !some {
            for name in unseen.keys() {
                println!("  ✘ {name}\n      on the list of what is left out, but there is no such spec");
                checks.count(false);
            }
        }
        println!("  {} ran; {out} did not pass and are on the list", self.0.len());
    }
}
