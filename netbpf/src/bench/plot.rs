//! A report as a picture: bars of what a packet costs on each way, and lines of
//! what it costs the more flows there are.

use std::path::Path;

use plotters::{
    backend::SVGBackend,
    chart::{ChartBuilder, LabelAreaPosition},
    coord::{Shift, combinators::IntoLogRange as _},
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea as _},
    element::{Circle, Rectangle, Text},
    series::LineSeries,
    style::{
        Color as _, FontTransform, IntoFont as _, RGBColor, TextStyle, WHITE,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{
    contender::{Contender, Way},
    report::{Metric, Mode, Report},
};
use crate::error::{Context as _, Error, Result};

const WIDTH: u32 = 960;
const MARGIN: i32 = 24;
const TITLE: i32 = 56;
const BAR: i32 = 22;
const GAP: i32 = 8;
const CURVES: i32 = 300;
/// Where bars begin: to the left are their names.
const BARS: i32 = 300;

const INK: RGBColor = RGBColor(36, 41, 47);
const PALE: RGBColor = RGBColor(110, 119, 129);
const RULE: RGBColor = RGBColor(216, 222, 228);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn colour(contender: Contender) -> RGBColor {
    match contender {
        Contender::Netbpf => RGBColor(9, 105, 218),
        Contender::Iptables | Contender::BridgeNf => RGBColor(207, 92, 54),
        Contender::Bridge => RGBColor(224, 168, 80),
        Contender::Veth => RGBColor(45, 140, 120),
        Contender::Limit => RGBColor(140, 149, 159),
        Contender::Generator => RGBColor(196, 203, 210),
    }
}

fn font(size: i32, colour: &RGBColor, horizontal: HPos) -> TextStyle<'_> {
    let style = TextStyle::from(("sans-serif", size).into_font()).color(colour);
    style.pos(Pos::new(horizontal, VPos::Center))
}

/// Whole pixels.
#[allow(clippy::cast_possible_truncation, reason = "within a picture")]
fn pixels(value: f64) -> i32 {
    value.round() as i32
}

/// Writes the picture of a report.
///
/// # Errors
/// If there is nothing to be seen, or the file cannot be written.
pub fn write(report: &Report, path: &Path) -> Result<()> {
    let svg = svg(report)?;
    std::fs::write(path, svg).context(format!("cannot write {}", path.display()))
}

/// The picture of a report, as SVG.
///
/// # Errors
/// There is nothing to be seen in it.
pub fn svg(report: &Report) -> Result<String> {
    let groups: Vec<(Way, Vec<(Contender, f64)>)> = Way::ALL
        .into_iter()
        .map(|way| (way, bars(report, way)))
        .filter(|(_, bars)| !bars.is_empty())
        .collect();
    let curves = curves(report);
    if groups.is_empty() && curves.is_empty() {
        return Err(Error::usage("there is nothing to be plotted")
            .because("the report holds neither packets (pps) nor flows")
            .hint("for example: netbpf bench pps flows --plot out.svg"));
    }
    let heights = groups.iter().map(|(_, bars)| group_height(bars.len()));
    let bars_end = TITLE + heights.sum::<i32>();
    let height = bars_end + if curves.is_empty() { 0 } else { CURVES } + MARGIN;
    let mut svg = String::new();
    {
        let size = (WIDTH, height.unsigned_abs());
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        draw(&area, report, &groups, &curves, bars_end)
            .map_err(|error| Error::failed("cannot draw the plot").because(error))?;
    }
    Ok(svg)
}

fn group_height(bars: usize) -> i32 {
    26 + i32::try_from(bars).unwrap_or_default() * (BAR + GAP) + 14
}

/// What a packet costs on a way, as far as it was measured.
fn bars(report: &Report, way: Way) -> Vec<(Contender, f64)> {
    let is_it = |mode, key: &super::report::Key| {
        key.mode == mode
            && key.way == Some(way)
            && key.metric == Metric::NsPerPacket
            && key.case == super::pps::case(1)
    };
    let of = |mode| -> Vec<_> {
        let rows = report.rows.iter().filter(|row| is_it(mode, &row.key));
        rows.map(|row| (row.key.contender, row.stats.median)).collect()
    };
    let mut bars = of(Mode::Pps);
    bars.sort_by_key(|(contender, _)| *contender);
    bars
}

/// What a packet costs with so many flows.
type Curve = (Contender, Vec<(f64, f64)>);

fn curves(report: &Report) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for row in &report.rows {
        let key = &row.key;
        if key.mode != Mode::Flows || key.way != Some(Way::NsToOutside) {
            continue;
        }
        let Some(flows) = key.case.split(' ').next().and_then(|n| n.parse().ok()) else { continue };
        match curves.iter_mut().find(|(contender, _)| *contender == key.contender) {
            Some((_, points)) => points.push((flows, row.stats.median)),
            None => curves.push((key.contender, vec![(flows, row.stats.median)])),
        }
    }
    // A line needs two points.
    curves.retain(|(_, points)| points.len() > 1);
    curves
}

type Drawn<T = ()> = Result<T, DrawingAreaErrorKind<std::io::Error>>;

fn draw(
    area: &Area<'_>,
    report: &Report,
    groups: &[(Way, Vec<(Contender, f64)>)],
    curves: &[Curve],
    bars_end: i32,
) -> Drawn {
    area.fill(&WHITE)?;
    let title = "Nanoseconds per packet: less is better";
    area.draw(&Text::new(title, (MARGIN, 20), font(17, &INK, HPos::Left)))?;
    let release = report.machine.kernel.split(' ').next().unwrap_or_default();
    let about = format!(
        "64-byte UDP, one CPU, generator included; {}, {}, Linux {release}",
        report.date.split('T').next().unwrap_or_default(),
        report.machine.cpu,
    );
    area.draw(&Text::new(about, (MARGIN, 40), font(12, &PALE, HPos::Left)))?;
    let values = groups.iter().flat_map(|(_, bars)| bars).map(|(_, value)| *value);
    let most = values.fold(1.0, f64::max);
    let mut top = TITLE;
    for (way, bars) in groups {
        draw_group(area, *way, bars, most, top)?;
        top += group_height(bars.len());
    }
    if !curves.is_empty() {
        let at = (MARGIN, bars_end);
        area.draw(&Text::new(
            "The same with many flows (SNAT)",
            (at.0, at.1 + 10),
            font(14, &INK, HPos::Left),
        ))?;
        let width = i32::try_from(WIDTH).unwrap_or(i32::MAX);
        let below = area.clone().shrink((MARGIN, bars_end + 20), (width - 2 * MARGIN, CURVES - 20));
        draw_curves(&below, curves)?;
    }
    area.present()
}

fn draw_group(area: &Area<'_>, way: Way, bars: &[(Contender, f64)], most: f64, top: i32) -> Drawn {
    area.draw(&Text::new(way.about(), (MARGIN, top + 12), font(14, &INK, HPos::Left)))?;
    let width = i32::try_from(WIDTH).unwrap_or(i32::MAX) - BARS - MARGIN - 110;
    let netbpf = bars.iter().find(|(contender, _)| *contender == Contender::Netbpf);
    for (n, (contender, value)) in (0..).zip(bars) {
        let y = top + 26 + n * (BAR + GAP);
        let end = BARS + pixels(f64::from(width) * value / most);
        let middle = y + BAR / 2;
        area.draw(&Text::new(contender.about(), (BARS - 10, middle), font(13, &INK, HPos::Right)))?;
        let bar = Rectangle::new([(BARS, y), (end, y + BAR)], colour(*contender).filled());
        area.draw(&bar)?;
        let times = netbpf.filter(|_| *contender != Contender::Netbpf && contender.is_rival());
        let times =
            times.map_or(String::new(), |(_, own)| format!(" ({:.1} x netbpf)", value / own));
        let label = format!("{value:.0}{times}");
        area.draw(&Text::new(label, (end + 8, middle), font(13, &INK, HPos::Left)))?;
    }
    Ok(())
}

fn draw_curves(area: &Area<'_>, curves: &[Curve]) -> Drawn {
    let points = || curves.iter().flat_map(|(_, points)| points);
    let most_flows = points().map(|(flows, _)| *flows).fold(10.0, f64::max);
    let most = points().map(|(_, ns)| *ns).fold(1.0, f64::max) * 1.08;
    let mut chart = ChartBuilder::on(area)
        .margin(6)
        .margin_right(210)
        .set_label_area_size(LabelAreaPosition::Left, 52)
        .set_label_area_size(LabelAreaPosition::Bottom, 40)
        .build_cartesian_2d((1.0..most_flows).log_scale(), 0.0..most)?;
    let small = font(12, &PALE, HPos::Center);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RULE)
        .axis_style(RULE)
        .x_labels(8)
        .y_labels(6)
        .x_label_formatter(&|flows| thousands(*flows))
        .y_label_formatter(&|ns| format!("{ns:.0}"))
        .x_desc("flows")
        .axis_desc_style(small.clone().transform(FontTransform::None))
        .label_style(("sans-serif", 12).into_font().color(&PALE))
        .draw()?;
    for (contender, points) in curves {
        let colour = colour(*contender);
        chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|at| Circle::new(*at, 3, colour.filled())))?;
        if let Some(last) = points.last() {
            let (x, y) = chart.backend_coord(last);
            let (left, top) = area.get_base_pixel();
            let at = (x - left + 10, y - top);
            area.draw(&Text::new(contender.about(), at, font(12, &colour, HPos::Left)))?;
        }
    }
    Ok(())
}

/// Powers of ten as people write them.
fn thousands(number: f64) -> String {
    match number {
        number if number >= 1e6 => format!("{:.0} M", number / 1e6),
        number if number >= 1e3 => format!("{:.0} k", number / 1e3),
        number => format!("{number:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::testing;

    #[test]
    fn a_plot_has_a_bar_for_each_contender_and_a_line_over_flows() {
        let svg = svg(&testing::full()).expect("a plot");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for text in Way::ALL.iter().map(|way| way.about()).chain(["2.0 x netbpf", "1 M"]) {
            assert!(svg.contains(text), "{text} is missing in {svg}");
        }
        let contenders: usize = Way::ALL.iter().map(|way| way.in_kernel().len()).sum();
        // And one for the background.
        assert_eq!(svg.matches("<rect").count(), contenders + 1);
        assert_eq!(svg.matches("<circle").count(), 9);
    }

    #[test]
    fn nothing_is_no_plot() {
        let error = svg(&testing::report(Vec::new())).expect_err("an empty report");
        assert!(error.what().contains("nothing"), "{error}");
    }

    #[test]
    fn axes_are_short() {
        assert_eq!([1.0, 1e3, 2e5, 1e6].map(thousands), ["1", "1 k", "200 k", "1 M"]);
    }
}
