//! The last word of an exec or attach: what goes out on its error stream.

use serde_json::json;

use crate::Failure;
use crate::negotiate::Ending;

/// Bytes for the error stream; none where success is told by silence.
pub(super) fn ending(form: Ending, result: Result<i32, &Failure>) -> Vec<u8> {
    let text = match (form, result) {
        (Ending::Text, Ok(0)) => String::new(),
        (Ending::Text, Ok(code)) => format!("command terminated with exit code {code}"),
        (Ending::Text, Err(failure)) => failure.message.clone(),
        (Ending::Status, Ok(0)) => json!({ "metadata": {}, "status": "Success" }).to_string(),
        // The reason and the cause are what clients take the code from (k8s.io/apimachinery, remotecommand).
        (Ending::Status, Ok(code)) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit code {code}"),
            "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        })
        .to_string(),
        (Ending::Status, Err(failure)) => json!({
            "metadata": {},
            "status": "Failure",
            "message": failure.message,
            "reason": "InternalError",
            "details": { "causes": [{ "message": failure.message }] },
            "code": 500,
        })
        .to_string(),
    };
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_ids::ErrorClass;

    #[test]
    fn each_version_has_its_form() {
        let failure = Failure::new(ErrorClass::Internal, "no \"shell\"");
        let cases: &[(Ending, Result<i32, &Failure>, &str)] = &[
            (Ending::Text, Ok(0), ""),
            (Ending::Text, Ok(3), "command terminated with exit code 3"),
            (Ending::Text, Err(&failure), "no \"shell\""),
            (Ending::Status, Ok(0), r#"{"metadata":{},"status":"Success"}"#),
        ];
        for (form, result, expected) in cases {
            assert_eq!(ending(*form, *result), expected.as_bytes());
        }
        let status: serde_json::Value = serde_json::from_slice(&ending(Ending::Status, Ok(137))).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({ "reason": "ExitCode", "message": "137" }));
        let status: serde_json::Value =
            serde_json::from_slice(&ending(Ending::Status, Err(&failure))).unwrap();
        assert_eq!((&status["status"], &status["message"]), (&json!("Failure"), &json!("no \"shell\"")));
    }
}
