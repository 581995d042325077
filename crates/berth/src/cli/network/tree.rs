//! A tree as lines of text.

/// A line, and what belongs to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) text: String,
    pub(super) below: Vec<Node>,
}

impl Node {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), below: Vec::new() }
    }

    pub(super) fn with(text: impl Into<String>, below: impl IntoIterator<Item = Node>) -> Self {
        Self { text: text.into(), below: below.into_iter().collect() }
    }

    /// A heading over lines; `None` says that there are none.
    pub(super) fn list(title: &str, lines: impl IntoIterator<Item = String>) -> Self {
        let below: Vec<Node> = lines.into_iter().map(Node::new).collect();
        match below.is_empty() {
            true => Node::new(format!("{title}: none")),
            false => Node::with(title, below),
        }
    }

    pub(super) fn draw(&self) -> String {
        let mut text = format!("{}\n", self.text);
        self.draw_below("", &mut text);
        text
    }

    fn draw_below(&self, indent: &str, text: &mut String) {
        for (at, node) in self.below.iter().enumerate() {
            let last = at + 1 == self.below.len();
            let (here, further) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            *text += &format!("{indent}{here}{}\n", node.text);
            node.draw_below(&format!("{indent}{further}"), text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_and_leaves() {
        let tree = Node::with(
            "root",
            [
                Node::with("a", [Node::new("b"), Node::new("c")]),
                Node::list("d", ["e".to_owned()]),
                Node::list("f", []),
            ],
        );
        let expected = "root\n├─ a\n│  ├─ b\n│  └─ c\n├─ d\n│  └─ e\n└─ f: none\n";
        assert_eq!(tree.draw(), expected);
    }
}
