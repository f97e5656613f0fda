//! [`Flags`] as an OpenFeature provider: set it, and every client of the `open-feature` crate falls back.

use std::any::Any;
use std::collections::HashMap;

use open_feature::provider::{FeatureProvider, ProviderMetadata, ProviderStatus, ResolutionDetails};
use open_feature::{
    EvaluationContext, EvaluationContextFieldValue, EvaluationError, EvaluationErrorCode, EvaluationReason,
    EvaluationResult, FlagMetadata, FlagMetadataValue, StructValue, Value as FlagValue, async_trait,
};
use serde_json::{Map, Number, Value};

use super::answer::Trouble;
use super::live::{Evaluation, Flags, Origin};
use super::ofrep::{AGE, CAUSE, ORIGIN};

#[async_trait]
impl FeatureProvider for Flags {
    /// `STALE` while the service does not answer; never an error, since there are answers.
    fn status(&self) -> ProviderStatus {
        if self.is_live() { ProviderStatus::Ready } else { ProviderStatus::STALE }
    }

    fn metadata(&self) -> &ProviderMetadata {
        self.provider_metadata()
    }

    async fn resolve_bool_value(
        &self,
        flag_key: &str,
        evaluation_context: &EvaluationContext,
    ) -> EvaluationResult<ResolutionDetails<bool>> {
        self.resolve(flag_key, evaluation_context, Value::as_bool).await
    }

    async fn resolve_int_value(
        &self,
        flag_key: &str,
        evaluation_context: &EvaluationContext,
    ) -> EvaluationResult<ResolutionDetails<i64>> {
        self.resolve(flag_key, evaluation_context, int).await
    }

    async fn resolve_float_value(
        &self,
        flag_key: &str,
        evaluation_context: &EvaluationContext,
    ) -> EvaluationResult<ResolutionDetails<f64>> {
        self.resolve(flag_key, evaluation_context, Value::as_f64).await
    }

    async fn resolve_string_value(
        &self,
        flag_key: &str,
        evaluation_context: &EvaluationContext,
    ) -> EvaluationResult<ResolutionDetails<String>> {
        self.resolve(flag_key, evaluation_context, |value| value.as_str().map(str::to_owned)).await
    }

    async fn resolve_struct_value(
        &self,
        flag_key: &str,
        evaluation_context: &EvaluationContext,
    ) -> EvaluationResult<ResolutionDetails<StructValue>> {
        self.resolve(flag_key, evaluation_context, |value| value.as_object().map(structure)).await
    }
}

impl Flags {
    async fn resolve<T>(
        &self,
        flag: &str,
        context: &EvaluationContext,
        read: impl Fn(&Value) -> Option<T> + Send + Sync,
    ) -> EvaluationResult<ResolutionDetails<T>> {
        let fits = |value: &Value| read(value).is_some();
        let evaluation = match context_of(context) {
            Ok(context) => self.evaluate_as(flag, &context, fits).await,
            Err(trouble) => self.evaluate_without(flag, trouble, fits),
        };
        match evaluation.value.as_ref().and_then(&read) {
            Some(value) => Ok(details(value, evaluation)),
            None => Err(error(evaluation.trouble.as_ref())),
        }
    }
}

fn details<T>(value: T, evaluation: Evaluation) -> ResolutionDetails<T> {
    let reason = match evaluation.reason() {
        "STATIC" => EvaluationReason::Static,
        "DEFAULT" => EvaluationReason::Default,
        "TARGETING_MATCH" => EvaluationReason::TargetingMatch,
        "SPLIT" => EvaluationReason::Split,
        "CACHED" => EvaluationReason::Cached,
        "DISABLED" => EvaluationReason::Disabled,
        "UNKNOWN" => EvaluationReason::Unknown,
        "ERROR" => EvaluationReason::Error,
        other => EvaluationReason::Other(other.to_owned()),
    };
    let told = evaluation.metadata.iter().filter_map(|(key, value)| Some((key.clone(), simple(value)?)));
    let mut metadata = FlagMetadata { values: told.collect() };
    metadata.add_value(ORIGIN, evaluation.origin.name());
    if let Origin::LastKnownGood { age } = evaluation.origin {
        metadata.add_value(AGE, i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
    }
    if let Some(trouble) = &evaluation.trouble {
        metadata.add_value(CAUSE, trouble.name());
    }
    ResolutionDetails {
        value,
        variant: evaluation.variant,
        reason: Some(reason),
        flag_metadata: Some(metadata),
    }
}

fn error(trouble: Option<&Trouble>) -> EvaluationError {
    let code = match trouble {
        Some(Trouble::NotFound) => EvaluationErrorCode::FlagNotFound,
        Some(Trouble::OtherType) => EvaluationErrorCode::TypeMismatch,
        Some(Trouble::Malformed(_)) => EvaluationErrorCode::ParseError,
        Some(Trouble::BadContext { code, .. }) if code == "TARGETING_KEY_MISSING" => {
            EvaluationErrorCode::TargetingKeyMissing
        }
        Some(Trouble::BadContext { .. }) => EvaluationErrorCode::InvalidContext,
        _ => EvaluationErrorCode::General("GENERAL".into()),
    };
    let message = trouble.map_or_else(
        || "the flag service leaves the value to the program, which has declared none".into(),
        |trouble| format!("{trouble}; nothing is known for this context, and no default is declared"),
    );
    EvaluationError { code, message: Some(message) }
}

/// A whole number, also if it is written as `3.0`, as JSON does not tell the two apart.
fn int(value: &Value) -> Option<i64> {
    let whole = |float: &f64| float.fract() == 0.0 && float.abs() < LARGEST_EXACT;
    value.as_i64().or_else(|| value.as_f64().filter(whole).map(|float| float as i64))
}

fn simple(value: &Value) -> Option<FlagMetadataValue> {
    match value {
        Value::Bool(value) => Some((*value).into()),
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) => number
            .as_i64()
            .map(FlagMetadataValue::Int)
            .or_else(|| number.as_f64().map(FlagMetadataValue::Float)),
        _ => None,
    }
}

fn structure(members: &Map<String, Value>) -> StructValue {
    let fields = members.iter().filter_map(|(name, value)| Some((name.clone(), flag_value(value)?)));
    StructValue { fields: fields.collect::<HashMap<_, _>>() }
}

/// OpenFeature knows no null: what is null is not there.
fn flag_value(value: &Value) -> Option<FlagValue> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => FlagValue::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(int) => FlagValue::Int(int),
            None => FlagValue::Float(number.as_f64()?),
        },
        Value::String(text) => FlagValue::String(text.clone()),
        Value::Array(items) => FlagValue::Array(items.iter().filter_map(flag_value).collect()),
        Value::Object(members) => FlagValue::Struct(structure(members)),
    })
}

/// The context as OFREP writes it.
fn context_of(context: &EvaluationContext) -> Result<Value, Trouble> {
    let mut members = Map::new();
    for (name, field) in &context.custom_fields {
        let value = field_value(field).ok_or_else(|| Trouble::BadContext {
            code: "INVALID_CONTEXT".into(),
            details: format!("the field {name:?} can't be written as JSON"),
        })?;
        members.insert(name.clone(), value);
    }
    if let Some(key) = &context.targeting_key {
        members.insert("targetingKey".into(), key.as_str().into());
    }
    Ok(Value::Object(members))
}

fn field_value(field: &EvaluationContextFieldValue) -> Option<Value> {
    Some(match field {
        EvaluationContextFieldValue::Bool(value) => (*value).into(),
        EvaluationContextFieldValue::Int(value) => (*value).into(),
        EvaluationContextFieldValue::Float(value) => Value::Number(Number::from_f64(*value)?),
        EvaluationContextFieldValue::String(text) => text.as_str().into(),
        EvaluationContextFieldValue::DateTime(time) => {
            let (hours, minutes, _) = time.offset().as_hms();
            let sign = if time.offset().is_negative() { '-' } else { '+' };
            let (date, clock) = (time.date(), time.time());
            // RFC 3339, which has no seconds in an offset.
            Value::String(format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}{sign}{:02}:{:02}",
                date.year(),
                u8::from(date.month()),
                date.day(),
                clock.hour(),
                clock.minute(),
                clock.second(),
                clock.nanosecond(),
                hours.unsigned_abs(),
                minutes.unsigned_abs(),
            ))
        }
        EvaluationContextFieldValue::Struct(any) => any_value(&**any)?,
    })
}

/// OpenFeature's structures may be of any type; these can be written.
fn any_value(any: &(dyn Any + Send + Sync)) -> Option<Value> {
    if let Some(value) = any.downcast_ref::<Value>() {
        return Some(value.clone());
    }
    if let Some(value) = any.downcast_ref::<StructValue>() {
        return json_of(&FlagValue::Struct(value.clone()));
    }
    any.downcast_ref::<FlagValue>().and_then(json_of)
}

fn json_of(value: &FlagValue) -> Option<Value> {
    Some(match value {
        FlagValue::Bool(value) => (*value).into(),
        FlagValue::Int(value) => (*value).into(),
        FlagValue::Float(value) => Value::Number(Number::from_f64(*value)?),
        FlagValue::String(text) => text.as_str().into(),
        FlagValue::Array(items) => Value::Array(items.iter().map(json_of).collect::<Option<_>>()?),
        FlagValue::Struct(value) => {
            let members = value.fields.iter().map(|(name, value)| Some((name.clone(), json_of(value)?)));
            Value::Object(members.collect::<Option<_>>()?)
        }
    })
}

/// 2^53: up to here a float holds every whole number.
const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_context_is_written_whole_or_not_at_all() {
        let inner =
            StructValue { fields: HashMap::from([("b".into(), FlagValue::Array(vec![FlagValue::Int(1)]))]) };
        let context = EvaluationContext::default()
            .with_targeting_key("anna")
            .with_custom_field("beta", true)
            .with_custom_field("age", 30)
            .with_custom_field("share", 0.5)
            .with_custom_field("json", EvaluationContextFieldValue::Struct(Arc::new(json!({"a": null}))))
            .with_custom_field("inner", EvaluationContextFieldValue::Struct(Arc::new(inner)));
        let expected = json!({
            "targetingKey": "anna", "beta": true, "age": 30, "share": 0.5, "json": {"a": null}, "inner": {"b": [1]}
        });
        assert_eq!(context_of(&context).unwrap(), expected);
        for bad in
            [EvaluationContextFieldValue::Float(f64::NAN), EvaluationContextFieldValue::new_struct(7_u8)]
        {
            let context = EvaluationContext::default().with_custom_field("bad", bad);
            assert!(matches!(context_of(&context), Err(Trouble::BadContext { .. })));
        }
    }

    #[test]
    fn whole_numbers_are_whole_however_they_are_written() {
        assert_eq!((int(&json!(3)), int(&json!(3.0)), int(&json!(3.5))), (Some(3), Some(3), None));
        assert_eq!((int(&json!(1e300)), int(&json!("3")), int(&json!(u64::MAX))), (None, None, None));
    }
}
