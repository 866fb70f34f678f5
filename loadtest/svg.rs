//! Bar charts as SVG: groups of bars, one bar for each series. Pure.
//!
//! It must not know what the bars mean. A value that is not there leaves its place empty and says so.

use std::fmt::Write;

/// What is drawn.
#[derive(Debug, Clone)]
pub struct Chart {
    pub title: String,
    pub unit: &'static str,
    pub series: Vec<String>,
    pub groups: Vec<Group>,
}

/// Bars that stand together.
#[derive(Debug, Clone)]
pub struct Group {
    pub label: String,
    /// One for each series.
    pub values: Vec<Option<f64>>,
}

/// Told apart by people who see few colours, too.
const COLOURS: [&str; 7] =
    ["#999999", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"];
const BAR_WIDTH: f64 = 22.0;
const GROUP_GAP: f64 = 26.0;
const PLOT_HEIGHT: f64 = 260.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 40.0;
const GRID_LINES: u32 = 4;
/// Room for the title and the legend.
const WIDTH_MIN: f64 = 640.0;
const LEGEND_STEP: f64 = 110.0;

impl Chart {
    /// The whole document.
    pub fn draw(&self) -> String {
        let group_width = BAR_WIDTH * self.series.len() as f64 + GROUP_GAP;
        let plot_width = group_width * self.groups.len() as f64;
        let legend_width = LEGEND_STEP * self.series.len() as f64;
        let width = (LEFT + plot_width.max(legend_width) + 20.0).max(WIDTH_MIN);
        let height = TOP + PLOT_HEIGHT + BOTTOM;
        let values = self.groups.iter().flat_map(|group| &group.values).flatten();
        let top_value = round_up(values.copied().fold(0.0, f64::max));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        text(&mut svg, (LEFT, 22.0), "start", &format!("{} ({})", self.title, self.unit));
        self.legend(&mut svg);
        for line in 0..=GRID_LINES {
            let share = f64::from(line) / f64::from(GRID_LINES);
            let y = TOP + PLOT_HEIGHT * (1.0 - share);
            let right = width - 20.0;
            put(
                &mut svg,
                format_args!(
                    "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>"
                ),
            );
            text(&mut svg, (LEFT - 6.0, y + 4.0), "end", &number(top_value * share));
        }
        for (index, group) in self.groups.iter().enumerate() {
            let left = LEFT + GROUP_GAP / 2.0 + group_width * index as f64;
            bars(&mut svg, group, left, top_value);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn legend(&self, svg: &mut String) {
        for (index, name) in self.series.iter().enumerate() {
            let x = LEFT + LEGEND_STEP * index as f64;
            let colour = colour(index);
            put(
                svg,
                format_args!(
                    "<rect x=\"{x:.1}\" y=\"34\" width=\"10\" height=\"10\" fill=\"{colour}\"/>"
                ),
            );
            text(svg, (x + 14.0, 43.0), "start", name);
        }
    }
}

fn bars(svg: &mut String, group: &Group, left: f64, top_value: f64) {
    let ground = TOP + PLOT_HEIGHT;
    for (index, value) in group.values.iter().enumerate() {
        let x = left + BAR_WIDTH * index as f64;
        let middle = x + BAR_WIDTH / 2.0;
        let Some(value) = value else {
            text(svg, (middle, ground - 4.0), "middle", "n/a");
            continue;
        };
        let height = if top_value > 0.0 { PLOT_HEIGHT * value / top_value } else { 0.0 };
        let (y, width, colour) = (ground - height, BAR_WIDTH - 2.0, colour(index));
        put(
            svg,
            format_args!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
            ),
        );
        text(svg, (middle, y - 3.0), "middle", &number(*value));
    }
    let middle = left + BAR_WIDTH * group.values.len() as f64 / 2.0;
    text(svg, (middle, ground + 18.0), "middle", &group.label);
}

fn put(svg: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(svg, "{line}").expect("BUG: a String takes all that is written to it");
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    put(
        svg,
        format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"),
    );
}

fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

fn number(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// The next value up of 1, 2 and 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= value).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of all elements, if each is closed in its turn and no text holds a bare `<` or `&`.
    fn elements(mut xml: &str) -> Result<Vec<String>, String> {
        let (mut open, mut all) = (Vec::new(), Vec::new());
        while let Some(start) = xml.find('<') {
            for (at, _) in xml[..start].match_indices('&') {
                let known = ["&amp;", "&lt;", "&gt;"].iter().any(|e| xml[at..].starts_with(e));
                known.then_some(()).ok_or("a bare &")?;
            }
            let end = start + xml[start..].find('>').ok_or("a tag without end")?;
            let tag = &xml[start + 1..end];
            if tag.contains('<') || tag.matches('"').count() % 2 == 1 {
                return Err(format!("bad tag {tag}"));
            }
            let name = tag.trim_matches('/').split(' ').next().unwrap_or("").to_owned();
            if tag.starts_with('/') {
                let opened = open.pop();
                (opened.as_ref() == Some(&name)).then_some(()).ok_or(format!("{name} closed"))?;
            } else {
                all.push(name.clone());
                if !tag.ends_with('/') {
                    open.push(name);
                }
            }
            xml = &xml[end + 1..];
        }
        if open.is_empty() { Ok(all) } else { Err(format!("open: {open:?}")) }
    }

    fn chart(values: Vec<Option<f64>>) -> Chart {
        let group = Group { label: "a<b & c>d".to_owned(), values };
        let series = vec!["one".to_owned(), "two & three".to_owned()];
        Chart {
            title: "CPU <per> transaction".to_owned(), unit: "µs", series, groups: vec![group]
        }
    }

    #[test]
    fn the_checker_refuses_what_is_not_well_formed() {
        for bad in ["<a>", "<a></b>", "<a>x & y</a>", "<a b=\"></a>"] {
            assert!(elements(bad).is_err(), "{bad}");
        }
        assert_eq!(elements("<a><b/>&lt;</a>").unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_chart_is_well_formed_and_has_its_bars() {
        let count = |values| {
            let found = elements(&chart(values).draw()).unwrap();
            found.iter().filter(|name| *name == "rect").count()
        };
        // Beside the bars: the background and two places of the legend.
        assert_eq!(count(vec![Some(10.0), Some(20.0)]), 5);
        assert_eq!(count(vec![Some(10.0), None]), 4);
        assert_eq!(count(vec![Some(0.0), Some(0.0)]), 5);
    }

    #[test]
    fn the_tallest_bar_is_as_tall_as_its_share_of_the_scale() {
        let svg = chart(vec![Some(25.0), Some(50.0)]).draw();
        assert!(svg.contains(&format!("height=\"{PLOT_HEIGHT:.1}\"")), "{svg}");
        assert!(svg.contains(&format!("height=\"{:.1}\"", PLOT_HEIGHT / 2.0)), "{svg}");
    }

    #[test]
    fn the_scale_ends_at_a_round_number() {
        assert_eq!(
            [0.0, 0.3, 1.0, 7.0, 21.0, 560.0].map(round_up),
            [1.0, 0.5, 1.0, 10.0, 50.0, 1000.0]
        );
    }
}
