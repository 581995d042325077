//! resolv.conf(5).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What a pod's containers have in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResolverView {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl ResolverView {
    pub fn read(text: &str) -> Self {
        let mut view = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => view.servers.extend(words.next()),
                // The last one counts.
                Some("search" | "domain") => view.searches = words.collect(),
                Some("options") => view.options.extend(words),
                _ => {}
            }
        }
        view
    }

    /// Those that can be asked from anywhere: one with the name of an interface is of its link alone.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.servers.iter().filter_map(|text| text.parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_manual_says() {
        let text = "# nameserver 192.0.2.9\ndomain old.example\nsearch a.example b.example\n\
                    nameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\noptions ndots:5\n";
        let view = ResolverView::read(text);
        assert_eq!(view.servers, ["192.0.2.1", "fe80::1%eth0", "2001:db8::1"]);
        assert_eq!(view.searches, ["a.example", "b.example"]);
        assert_eq!(view.options, ["ndots:5"]);
        assert_eq!(view.addresses().len(), 2);
        assert_eq!(ResolverView::read(""), ResolverView::default());
    }
}
