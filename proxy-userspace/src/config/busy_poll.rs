//! How long the threads that serve sessions stay awake for the next message.

use std::time::Duration;

use super::ConfigError;

/// A wake-up takes a hundredth of it on the slowest of machines; whoever waits longer sleeps better.
const MAX_BUSY_POLL: Duration = Duration::from_millis(10);

/// None at all unless asked for.
pub(super) fn checked(value: Option<Duration>) -> Result<Duration, ConfigError> {
    let value = value.unwrap_or_default();
    if value > MAX_BUSY_POLL {
        return Err(ConfigError::Value {
            setting: "busy_poll",
            reason: format!(
                "{value:?} is more than {MAX_BUSY_POLL:?}: threads would hardly ever sleep"
            ),
        });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_off_unless_asked_for_and_short() {
        assert_eq!(checked(None).unwrap(), Duration::ZERO);
        assert_eq!(checked(Some(MAX_BUSY_POLL)).unwrap(), MAX_BUSY_POLL);
        let error = checked(Some(Duration::from_secs(1))).unwrap_err();
        assert!(error.to_string().contains("busy_poll"), "{error}");
    }
}
