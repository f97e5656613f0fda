//! The plot: goodput and p99 over what was asked, a line for each contestant.

use std::fmt::Write as _;

use crate::contestant::{EVERYBODY, What};
use crate::figures::Figure;
use crate::{DEADLINE, TIMES};

/// Two panels side by side, as an SVG file.
pub(crate) fn svg(figures: &[Figure]) -> String {
    let deadline_ms = DEADLINE.as_secs_f64() * 1e3;
    let panels = [
        Panel {
            left: 60.0,
            title: "Good answers, as a share of the capacity",
            top: 1.2,
            ticks: &[0.0, 0.25, 0.5, 0.75, 1.0],
            marked: (1.0, "capacity"),
            value: |figure| Some(figure.goodput()),
        },
        Panel {
            left: 560.0,
            title: "p99 of the good answers, ms",
            top: deadline_ms * 1.2,
            ticks: &[0.0, 100.0, 200.0, 300.0],
            marked: (deadline_ms, "deadline"),
            value: Figure::p99_ms,
        },
    ];
    let body: String = panels.iter().map(|panel| panel.draw(figures)).collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1050 400\" width=\"1050\" height=\"400\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#333\">\n\
         <title>Goodput and latency over the load that is asked</title>\n<rect width=\"1050\" height=\"400\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}

struct Panel {
    left: f64,
    title: &'static str,
    /// The value at the upper edge.
    top: f64,
    ticks: &'static [f64],
    /// Where the dashed line is, and what it says.
    marked: (f64, &'static str),
    value: fn(&Figure) -> Option<f64>,
}

impl Panel {
    fn draw(&self, figures: &[Figure]) -> String {
        let mut text = format!(
            "<text x=\"{}\" y=\"30\" font-size=\"15\" font-weight=\"600\">{}</text>\n",
            self.left, self.title
        );
        for tick in self.ticks {
            let y = self.y(*tick);
            // Writing to a String can't fail.
            let _infallible = writeln!(
                text,
                "<line x1=\"{}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#e6e6e6\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#777\">{tick}</text>",
                self.left,
                self.left + WIDTH,
                self.left - 8.0,
                y + 4.0,
            );
        }
        for times in TIMES {
            let _infallible = writeln!(
                text,
                "<text x=\"{:.1}\" y=\"368\" text-anchor=\"middle\" fill=\"#777\">{times}×</text>",
                self.x(times)
            );
        }
        let (marked, says) = self.marked;
        let (y, left, right) = (self.y(marked), self.left, self.left + WIDTH);
        let (above, middle) = (y - 12.0, self.left + WIDTH / 2.0);
        let _infallible = writeln!(
            text,
            "<line x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#999\" stroke-dasharray=\"4 4\"/>\
             <text x=\"{right}\" y=\"{above:.1}\" text-anchor=\"end\" fill=\"#777\">{says}</text>\n\
             <text x=\"{middle}\" y=\"390\" text-anchor=\"middle\" fill=\"#777\">asked, in multiples of the capacity</text>",
        );
        text + &self.lines(figures)
    }

    /// The lines, each with its name at its right end; names that would overlap are moved apart. Who has no value in the end has its name
    /// at the foot, with the reason: nothing was in time.
    fn lines(&self, figures: &[Figure]) -> String {
        let mut text = String::new();
        let mut names: Vec<(f64, String, What)> = Vec::new();
        // The first of them is drawn last, above the others.
        for what in EVERYBODY.into_iter().rev() {
            let points: Vec<(f64, f64)> = figures
                .iter()
                .filter(|figure| figure.what == what)
                .filter_map(|figure| Some((self.x(figure.times), self.y((self.value)(figure)?))))
                .collect();
            let Some(&(right, last)) = points.last() else { continue };
            let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let (color, width) = (color(what), if what == What::Seaworthy { 3.0 } else { 2.0 });
            let _infallible = writeln!(
                text,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"/>",
                path.join(" ")
            );
            for (x, y) in &points {
                let _infallible =
                    writeln!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{color}\"/>");
            }
            let goes_on = right >= self.left + WIDTH - 1.0;
            let name = if goes_on { what.name().to_owned() } else { format!("{}: none", what.name()) };
            names.push((if goes_on { last } else { self.y(0.0) }, name, what));
        }
        names.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut free = f64::MIN;
        for (y, name, what) in names {
            let y = y.max(free);
            free = y + 16.0;
            let _infallible = writeln!(
                text,
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{}\">{name}</text>",
                self.left + WIDTH + 8.0,
                y + 4.0,
                color(what),
            );
        }
        text
    }

    /// Logarithmic from 0.9 to 10, because the loads are.
    fn x(&self, times: f64) -> f64 {
        self.left + WIDTH * (times / 0.9).ln() / (10.0_f64 / 0.9).ln()
    }

    fn y(&self, value: f64) -> f64 {
        350.0 - 300.0 * (value / self.top).min(1.0)
    }
}

/// Of the part of a panel with the lines.
const WIDTH: f64 = 360.0;

/// Told apart by those who see few colors too: blue, orange, green and grey of Okabe and Ito.
fn color(what: What) -> &'static str {
    match what {
        What::Seaworthy => "#0072b2",
        What::Nginx => "#009e73",
        What::HaProxy => "#d55e00",
        What::Direct => "#777777",
    }
}
