//! The plot: for each workload, how each way compares with the direct one. Writes SVG. Pure.

use std::fmt::Write as _;

use super::measurement::Spread;

/// All lengths are in pixels.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 140.0;
const TOP: f64 = 66.0;
const BOTTOM: f64 = 26.0;
const BAR: f64 = 11.0;
const BETWEEN_GROUPS: f64 = 9.0;
/// Behind each other in the legend.
const LEGEND_STEP: f64 = 110.0;
const SWATCH: f64 = 10.0;
/// Ratios between two lines of the grid.
const STEP: f64 = 0.25;
/// The scale ends here at the earliest and at the latest: what is beyond is told by its number.
const SHORTEST_SCALE: f64 = 1.25;
const LONGEST_SCALE: f64 = 2.0;
/// Told apart by whoever sees few colours, too (Okabe and Ito).
const COLOURS: [&str; 6] = [
    "#0072b2", "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#999999",
];

/// A way's ratio to the direct one.
#[derive(Debug)]
pub(super) struct Bar {
    pub(super) way: &'static str,
    pub(super) ratio: Spread,
}

/// A workload.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: &'static str,
    pub(super) bars: Vec<Bar>,
}

/// Draws it: bars are medians, thin lines the smallest and largest.
pub(super) fn draw(title: &str, groups: &[Group]) -> String {
    let scale = Scale::of(groups);
    let height = TOP + groups.iter().map(height_of).sum::<f64>() + BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    text(&mut svg, (10.0, 20.0), "start", title);
    legend(&mut svg, groups);
    grid(&mut svg, &scale, height);
    let mut top = TOP;
    for group in groups {
        let middle = top + (height_of(group) - BETWEEN_GROUPS) / 2.0 + 4.0;
        text(&mut svg, (LEFT - 8.0, middle), "end", group.name);
        for (number, bar) in group.bars.iter().enumerate() {
            draw_bar(&mut svg, &scale, top, (colour(number), bar.ratio));
            top += BAR;
        }
        top += BETWEEN_GROUPS;
    }
    svg.push_str("</svg>\n");
    svg
}

/// From ratios to places.
struct Scale {
    end: f64,
}

impl Scale {
    fn of(groups: &[Group]) -> Self {
        let largest = groups
            .iter()
            .flat_map(|group| &group.bars)
            .map(|bar| bar.ratio.median)
            .filter(|ratio| ratio.is_finite())
            .fold(0.0, f64::max);
        let end = (largest / STEP).ceil() * STEP;
        Self {
            end: end.clamp(SHORTEST_SCALE, LONGEST_SCALE),
        }
    }

    /// Returns where a ratio is, from left to right; never outside of the plot.
    fn place(&self, ratio: f64) -> f64 {
        let within = if ratio.is_nan() {
            0.0
        } else {
            ratio.clamp(0.0, self.end)
        };
        LEFT + within / self.end * (WIDTH - LEFT - RIGHT)
    }
}

fn height_of(group: &Group) -> f64 {
    group.bars.iter().map(|_| BAR).sum::<f64>() + BETWEEN_GROUPS
}

fn colour(number: usize) -> &'static str {
    COLOURS
        .get(number % COLOURS.len())
        .copied()
        .unwrap_or("#000000")
}

fn legend(svg: &mut String, groups: &[Group]) {
    let bars = groups.first().map_or(&[][..], |group| &group.bars);
    let mut left = LEFT;
    for (number, bar) in bars.iter().enumerate() {
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"30\" width=\"{SWATCH}\" height=\"{SWATCH}\" fill=\"{}\"/>",
            colour(number)
        );
        text(svg, (left + SWATCH + 4.0, 39.0), "start", bar.way);
        left += LEGEND_STEP;
    }
}

fn grid(svg: &mut String, scale: &Scale, height: f64) {
    let bottom = height - BOTTOM;
    let mut ratio = 0.0;
    while ratio <= scale.end {
        let is_direct = (ratio - 1.0_f64).abs() < STEP / 2.0;
        let (colour, label) = if is_direct {
            ("#000000", "1 = direct".to_owned())
        } else {
            ("#dddddd", format!("{ratio}"))
        };
        let x = scale.place(ratio);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"{colour}\"/>",
            TOP - 4.0
        );
        text(svg, (x, TOP - 8.0), "middle", &label);
        ratio += STEP;
    }
}

fn draw_bar(svg: &mut String, scale: &Scale, top: f64, (colour, ratio): (&str, Spread)) {
    let end = scale.place(ratio.median);
    let middle = top + BAR / 2.0;
    let _ = writeln!(
        svg,
        "<rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\n\
         <line x1=\"{:.1}\" y1=\"{middle:.1}\" x2=\"{:.1}\" y2=\"{middle:.1}\" stroke=\"#333333\"/>",
        end - LEFT,
        BAR - 1.0,
        scale.place(ratio.smallest),
        scale.place(ratio.largest),
    );
    let place = (WIDTH - RIGHT + 8.0, top + BAR - 1.5);
    text(svg, place, "start", &ratio.to_string());
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = escape(words);
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

/// Replaces what means something in XML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &'static str, ratios: &[f64]) -> Group {
        let bar = |ratio: &f64| Bar {
            way: "sessions",
            ratio: Spread {
                median: *ratio,
                smallest: ratio * 0.5,
                largest: ratio * 2.0,
            },
        };
        Group {
            name,
            bars: ratios.iter().map(bar).collect(),
        }
    }

    /// Every value of an attribute, as a number.
    fn numbers(svg: &str, attribute: &str) -> Vec<f64> {
        svg.split(&format!(" {attribute}=\""))
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
            .collect()
    }

    #[test]
    fn nothing_is_drawn_outside_however_far_a_ratio_is_off() {
        let wild = [0.0, 0.7, 1.3, 25.0, f64::NAN, f64::INFINITY];
        let svg = draw("wild", &[group("a", &wild), group("b", &wild)]);
        let height = numbers(&svg, "height")[0];
        for (attribute, limit) in [("x", WIDTH), ("x1", WIDTH), ("x2", WIDTH), ("width", WIDTH)] {
            for value in numbers(&svg, attribute) {
                assert!((0.0..=limit).contains(&value), "{attribute}={value}");
            }
        }
        for attribute in ["y", "y1", "y2"] {
            for value in numbers(&svg, attribute) {
                assert!(
                    (0.0..=height).contains(&value),
                    "{attribute}={value} of {height}"
                );
            }
        }
    }

    #[test]
    fn names_are_text_and_never_markup() {
        let svg = draw("a < b & \"c\"", &[group("<script>", &[1.0])]);
        assert!(svg.contains("a &lt; b &amp; &quot;c&quot;"), "{svg}");
        assert!(svg.contains(">&lt;script&gt;</text>"), "{svg}");
        assert!(!svg.contains("<script"), "{svg}");
    }

    #[test]
    fn the_scale_shows_the_direct_way_and_the_median_of_all_others() {
        for (ratio, end) in [(0.4, 1.25), (1.3, 1.5), (9.0, 2.0), (f64::NAN, 1.25)] {
            let scale = Scale::of(&[group("a", &[ratio])]);
            assert!(
                (scale.end - end).abs() < f64::EPSILON,
                "{ratio}: {}",
                scale.end
            );
        }
        let svg = draw("direct", &[group("a", &[0.4])]);
        assert_eq!(svg.matches("1 = direct").count(), 1);
    }
}
