// The picture of a bench: plain SVG, no script, no font, no link.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "client/commands/bench_report.h"
#include "client/commands/terminal.h"

namespace lorica {
namespace {

constexpr int kBins = 30;
constexpr double kPanelWidth = 380;
constexpr double kPanelHeight = 220;
constexpr double kMargin = 50;
constexpr double kTitleHeight = 40;

struct Panel {
  double x;  // of its left edge
  std::string title;
  std::string unit;  // of the horizontal axis
};

std::string Text(double x, double y, const char* anchor, const std::string& text) {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor,
                         absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}}));
}

double Bottom() { return kTitleHeight + kMargin + kPanelHeight; }

// Title, the two axes and their ends.
std::string Frame(const Panel& panel, double x_min, double x_max, double y_max) {
  const double top = kTitleHeight + kMargin;
  return absl::StrCat(Text(panel.x, top - 12, "start", panel.title),
                      absl::StrFormat("<path d=\"M%.1f %.1f V%.1f H%.1f\" class=\"axis\"/>\n",
                                      panel.x, top, Bottom(), panel.x + kPanelWidth),
                      Text(panel.x - 6, top + 10, "end", Fixed(y_max, y_max < 10 ? 1 : 0)),
                      Text(panel.x - 6, Bottom(), "end", "0"),
                      Text(panel.x, Bottom() + 18, "middle", Fixed(x_min, 0)),
                      Text(panel.x + kPanelWidth, Bottom() + 18, "end",
                           absl::StrCat(Fixed(x_max, x_max < 10 ? 1 : 0), " ", panel.unit)));
}

std::string Marker(const Panel& panel, double value, double share, const std::string& label) {
  const double x = panel.x + std::clamp(share, 0.0, 1.0) * kPanelWidth;
  return absl::StrCat(absl::StrFormat("<path d=\"M%.1f %.1f V%.1f\" class=\"mark\"/>\n", x,
                                      kTitleHeight + kMargin, Bottom()),
                      Text(x, Bottom() + 32, "middle", absl::StrCat(label, " ", Fixed(value, 1))));
}

std::string HistogramPanel(const Panel& panel, const std::vector<double>& values) {
  if (values.empty()) return Text(panel.x, kTitleHeight + kMargin - 12, "start", panel.title);
  const Histogram histogram = MakeHistogram(values, kBins);
  const double most = *std::max_element(histogram.counts.begin(), histogram.counts.end());
  const double range = histogram.bin_width * kBins;
  const double bar = kPanelWidth / kBins;
  std::string svg = Frame(panel, histogram.start, histogram.start + range, most);
  for (int i = 0; i < kBins; ++i) {
    const double height = histogram.counts[i] / most * kPanelHeight;
    absl::StrAppendFormat(&svg, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n",
                          panel.x + i * bar, Bottom() - height, bar - 1, height);
  }
  const Distribution d = Describe(values);
  const auto share = [&](double value) { return (value - histogram.start) / range; };
  return absl::StrCat(svg, Marker(panel, d.p50, share(d.p50), "p50"),
                      Marker(panel, d.p99, share(d.p99), "p99"));
}

std::string TimelinePanel(const Panel& panel, const BenchReport& report) {
  const std::vector<double>& rates = report.tokens_per_second;
  if (rates.empty()) return Text(panel.x, kTitleHeight + kMargin - 12, "start", panel.title);
  const double most = std::max(1.0, *std::max_element(rates.begin(), rates.end()));
  const double x_max = rates.size() * kSlotSeconds;
  std::string points;
  for (size_t i = 0; i < rates.size(); ++i) {
    absl::StrAppendFormat(&points, "%.1f,%.1f ",
                          panel.x + (i + 0.5) * kSlotSeconds / x_max * kPanelWidth,
                          Bottom() - rates[i] / most * kPanelHeight);
  }
  return absl::StrCat(Frame(panel, 0, x_max, most), "<polyline points=\"", points, "\"/>\n");
}

}  // namespace

std::string ReportToSvg(const BenchReport& report, const std::string& title) {
  const double step = kPanelWidth + 2 * kMargin;
  const double width = 3 * step;
  const double height = Bottom() + kMargin;
  return absl::StrCat(
      absl::StrFormat("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" "
                      "width=\"%.0f\" height=\"%.0f\">\n",
                      width, height, width, height),
      "<style>text{font:12px sans-serif;fill:#333}rect{fill:#4878a8}polyline{fill:none;"
      "stroke:#4878a8;stroke-width:2}.axis{fill:none;stroke:#333}.mark{stroke:#c44;"
      "stroke-dasharray:4 3}</style>\n<rect width=\"100%\" height=\"100%\" "
      "style=\"fill:#fff\"/>\n",
      Text(kMargin, 28, "start", title),
      HistogramPanel({kMargin, "time to first token", "ms"}, report.ttft_ms),
      HistogramPanel({kMargin + step, "time per further token", "ms"}, report.tpot_ms),
      TimelinePanel({kMargin + 2 * step, "generated tokens per second", "s"}, report), "</svg>\n");
}

}  // namespace lorica
