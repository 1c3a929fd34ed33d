//! As much of SVG as the plot needs. Colours follow the reader's light or dark
//! setting; no text is below 12 pixels.

use std::fmt::Write as _;

/// What does not depend on light and dark.
const STYLE: &str = "\
.grid,.axis,.mark{stroke-width:1}.mark{stroke-dasharray:2 4}\
.line{stroke-width:2.5;fill:none}.dash{stroke-width:2;stroke-dasharray:7 5;fill:none}\
.err{stroke-width:2;fill:none}.ring{stroke-width:2;fill:none}.name{font-weight:600}\
text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}\
.title{font-size:16px;font-weight:600}.end{text-anchor:end}.middle{text-anchor:middle}";

/// Paper, ink, soft ink, grid, and the colours of four series.
type Colours = [&'static str; 8];
const LIGHT: Colours =
    ["#ffffff", "#1f2328", "#59636e", "#d1d9e0", "#0969da", "#bc4c00", "#1a7f37", "#8250df"];
const DARK: Colours =
    ["#0d1117", "#f0f6fc", "#9198a1", "#2f3742", "#4493f8", "#f0883e", "#3fb950", "#ab7df8"];

/// Rules for one set of colours. Plain ones: not every viewer knows variables.
fn rules([paper, ink, soft, grid, series @ ..]: Colours) -> String {
    let mut css = format!(
        ".paper{{fill:{paper}}}.ink{{fill:{ink}}}.soft{{fill:{soft}}}\
         .grid{{stroke:{grid}}}.axis,.mark,.ring{{stroke:{soft}}}"
    );
    for (number, colour) in series.iter().enumerate() {
        let _ = write!(
            css,
            ".line.s{number},.dash.s{number},.err.s{number}{{stroke:{colour}}}\
             .dot.s{number},.bar.s{number},.name.s{number}{{fill:{colour}}}"
        );
    }
    css
}

/// A drawing in the making.
#[derive(Debug)]
pub(super) struct Svg {
    body: String,
}

impl Svg {
    /// An empty page.
    pub(super) fn new(width: f64, height: f64, title: &str) -> Self {
        let mut body = String::new();
        let title = escape(title);
        let (light, dark) = (rules(LIGHT), rules(DARK));
        let _ = write!(
            body,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n\
             <title>{title}</title>\n\
             <style>{STYLE}{light}@media (prefers-color-scheme:dark){{{dark}}}</style>\n\
             <rect class=\"paper\" width=\"{width}\" height=\"{height}\"/>\n"
        );
        Self { body }
    }

    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.body,
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    }

    pub(super) fn path(&mut self, class: &str, points: &[(f64, f64)]) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        let _ = writeln!(self.body, "<polyline class=\"{class}\" points=\"{points}\"/>");
    }

    pub(super) fn dot(&mut self, class: &str, (x, y): (f64, f64)) {
        let _ = writeln!(
            self.body,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/>"
        );
    }

    pub(super) fn bar(&mut self, class: &str, (x, y): (f64, f64), width: f64, height: f64) {
        let _ = writeln!(
            self.body,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\"/>"
        );
    }

    pub(super) fn text(&mut self, class: &str, (x, y): (f64, f64), text: &str) {
        let text = escape(text);
        let _ =
            writeln!(self.body, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
    }

    /// The finished file.
    pub(super) fn finish(mut self) -> String {
        self.body.push_str("</svg>\n");
        self.body
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
