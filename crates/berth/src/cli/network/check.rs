//! The steps of a check, a line each.

use berth_network::{Outcome, Step};

use crate::admin::NetworkCheck;

pub(super) fn has_failed(check: &NetworkCheck) -> bool {
    check.steps.iter().any(|step| step.outcome == Outcome::Failed)
}

pub(super) fn draw(check: &NetworkCheck) -> String {
    let width = check.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(0);
    let line = |step: &Step| {
        let outcome = match step.outcome {
            Outcome::Ok => "ok",
            Outcome::Failed => "FAIL",
            Outcome::Skipped => "skipped",
        };
        let helps = step.helps.as_ref().map(|helps| format!("{:10}{:width$}helps: {helps}\n", "", ""));
        format!("{outcome:<8}{:<width$}  {}\n{}", step.name, step.found, helps.unwrap_or_default())
    };
    check.steps.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_step() {
        let mut check = NetworkCheck {
            steps: vec![Step::ok("host's end", "is up"), Step::skipped("DNS", "why")],
            ..NetworkCheck::default()
        };
        assert!(!has_failed(&check));
        check.steps.push(Step::failed("port", "no", "do this"));
        assert!(has_failed(&check));
        let expected = "\
ok      host's end  is up
skipped DNS         why
FAIL    port        no
                    helps: do this
";
        assert_eq!(draw(&check), expected);
    }
}
