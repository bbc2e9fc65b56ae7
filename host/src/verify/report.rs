//! What a verification found, as a table or as JSON.

use serde::Serialize;

use super::compare::{Difference, Greedy};

/// All cases of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was compared: backend, types, reference, limits.
    pub subject: String,
    pub cases: Vec<Row>,
}

/// One case.
#[derive(Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<Difference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greedy: Option<Greedy>,
    /// Why it was skipped, or what is wrong.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Pass,
    Fail,
    Skipped,
}

impl Verdict {
    pub fn of(passed: bool) -> Self {
        if passed { Verdict::Pass } else { Verdict::Fail }
    }

    fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "FAIL",
            Verdict::Skipped => "skipped",
        }
    }
}

impl Row {
    /// A case that compares for equality only.
    pub fn equality(name: String, passed: bool, note: String) -> Self {
        Row { name, verdict: Verdict::of(passed), difference: None, greedy: None, note }
    }

    pub fn skipped(name: &str, why: &str) -> Self {
        Row { name: name.into(), verdict: Verdict::Skipped, difference: None, greedy: None, note: why.into() }
    }
}

impl Report {
    /// Whether something was compared and nothing failed.
    pub fn passed(&self) -> bool {
        let some = self.cases.iter().any(|row| row.verdict == Verdict::Pass);
        some && self.cases.iter().all(|row| row.verdict != Verdict::Fail)
    }

    pub fn print(&self, json: bool) {
        let mut value = serde_json::to_value(self).expect("a report is plain data");
        value["passed"] = self.passed().into();
        crate::output::json_or(json, &value, || self.table());
    }

    fn table(&self) -> String {
        let mut text = format!("{}\n", self.subject);
        text += &format!(
            "{:<28} {:>9} {:>10} {:>10} {:>9} {:>6} {:>9}  {}\n",
            "case", "positions", "max", "mean", "cosine", "top-1", "greedy", "verdict"
        );
        for row in &self.cases {
            text += &format!("{:<28} {}  {}", row.name, figures(row), row.verdict.word());
            text += &if row.note.is_empty() { "\n".to_owned() } else { format!(": {}\n", row.note) };
        }
        let count = |verdict| self.cases.iter().filter(|row| row.verdict == verdict).count();
        let counts = [Verdict::Pass, Verdict::Fail, Verdict::Skipped].map(count);
        text + &format!("{} passed, {} failed, {} skipped\n", counts[0], counts[1], counts[2])
    }
}

fn figures(row: &Row) -> String {
    let greedy = row
        .greedy
        .as_ref()
        .map_or_else(String::new, |g| format!("{}/{}", g.diverged_at.unwrap_or(g.compared), g.recorded));
    match &row.difference {
        Some(d) => format!(
            "{:>9} {:>10.6} {:>10.6} {:>9.6} {:>6.3} {greedy:>9}",
            d.positions, d.max_abs, d.mean_abs, d.min_cosine, d.top1_agreement
        ),
        None => format!("{:>9} {:>10} {:>10} {:>9} {:>6} {greedy:>9}", "", "", "", "", ""),
    }
}
