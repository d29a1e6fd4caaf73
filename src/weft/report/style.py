"""The look of pages: one style sheet, light and dark, from 375 px up. No font and no image is loaded."""

from __future__ import annotations

CSS = """
:root{color-scheme:light dark;
--paper:#faf9f6;--card:#fff;--ink:#22262b;--soft:#5d656e;--faint:#8b929a;--rule:#e6e3dc;--wash:#f2f0ea;
--good:#2f7d63;--good-wash:#d5e9e0;--even:#9a7420;--even-wash:#f2e6c6;--bad:#b0483a;--bad-wash:#f4d9d4;
--s0:#3b6ea8;--s1:#c2703d;--s2:#4c8c6b;--s3:#8a5fa3;--s4:#b08a2e;--s5:#4a9aa5;--s6:#b25575;--s7:#6f7681;
--sans:ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"PingFang SC",
"Hiragino Sans GB","Microsoft YaHei","Noto Sans CJK SC",sans-serif;
--serif:"Iowan Old Style","Palatino Linotype",Palatino,Charter,Georgia,"Songti SC","Noto Serif CJK SC",serif;
--mono:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
@media (prefers-color-scheme:dark){:root{
--paper:#16181b;--card:#1d2024;--ink:#e4e3df;--soft:#a5a9ad;--faint:#7d8287;--rule:#2e3237;--wash:#24282c;
--good:#6fc3a2;--good-wash:#21433a;--even:#d9b660;--even-wash:#443a1d;--bad:#e58b7d;--bad-wash:#4b2a26;
--s0:#7fb0e6;--s1:#e79a68;--s2:#7cc39d;--s3:#c29ad8;--s4:#dcb85f;--s5:#7dc8d2;--s6:#e58fab;--s7:#a2a8b0}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 var(--sans);
font-variant-numeric:tabular-nums;-webkit-font-smoothing:antialiased}
main,header.top,footer{max-width:1080px;margin:0 auto;padding:0 28px}
header.top{padding-top:44px}
.eyebrow{display:flex;align-items:center;gap:10px;color:var(--soft);font-size:13px;letter-spacing:.06em}
.mark{width:26px;height:26px;flex:none}
.mark line{stroke:var(--s0);stroke-width:2.2;stroke-linecap:round}
.mark path{fill:none;stroke:var(--s1);stroke-width:2.2;stroke-linecap:round}
h1{font:600 40px/1.15 var(--serif);margin:14px 0 8px;letter-spacing:-.01em;overflow-wrap:anywhere}
.facts{color:var(--soft);margin:0;overflow-wrap:anywhere}
.facts span+span::before{content:"·";margin:0 .55em;color:var(--faint)}
.verdict{font:400 20px/1.45 var(--serif);margin:22px 0 20px}
nav{display:flex;flex-wrap:wrap;gap:4px 20px;margin:30px 0 0;padding:12px 0;border-top:1px solid var(--rule);
border-bottom:1px solid var(--rule);font-size:13.5px}
a{color:var(--soft);text-decoration:none}a:hover{color:var(--ink);text-decoration:underline}
section{margin:52px 0 0}
h2{font:600 25px/1.2 var(--serif);margin:0 0 4px}
h3{font-size:15px;font-weight:600;margin:28px 0 8px;overflow-wrap:anywhere}
h3 small,h2 small{font:400 13px var(--sans);color:var(--soft);margin-left:.6em}
.lead{color:var(--soft);margin:0 0 18px;max-width:68ch}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(260px,1fr));gap:16px}
.card{background:var(--card);border:1px solid var(--rule);border-radius:14px;padding:18px 20px 16px;min-width:0}
.card .head{display:flex;flex-wrap:wrap;justify-content:space-between;gap:4px 10px;color:var(--soft);font-size:13px}
.card .head b{color:var(--ink);font-size:15px;overflow-wrap:anywhere}
.card .big{font:500 38px/1.1 var(--serif);margin:10px 0 2px}
.card .big small{font:400 14px var(--sans);color:var(--soft);margin-left:.5em;white-space:nowrap}
.card .foot{color:var(--soft);font-size:13px;display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 12px}
.card .note{color:var(--even);font-size:12.5px;margin:6px 0 0;overflow-wrap:anywhere}
.pill{display:inline-block;border-radius:99px;padding:1px 9px;font-size:12.5px;white-space:nowrap}
.pill.above{background:var(--good-wash);color:var(--good)}
.pill.level{background:var(--even-wash);color:var(--even)}
.pill.below{background:var(--bad-wash);color:var(--bad)}
.pill.trained{background:var(--good-wash);color:var(--good)}.pill.frozen{background:var(--wash);color:var(--soft)}
.panel{background:var(--card);border:1px solid var(--rule);border-radius:14px;padding:18px 20px;min-width:0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:8px 30px}
.panel+.panel{margin-top:16px}
.panel h3{margin:0 0 10px}
.legend{display:flex;flex-wrap:wrap;gap:2px 18px;list-style:none;margin:0 0 8px;padding:0;font-size:13px;
color:var(--soft)}
.legend li::before{content:"";display:inline-block;width:16px;height:3px;border-radius:2px;margin:0 7px 3px 0;
background:var(--c)}
.c0{--c:var(--s0)}.c1{--c:var(--s1)}.c2{--c:var(--s2)}.c3{--c:var(--s3)}
.c4{--c:var(--s4)}.c5{--c:var(--s5)}.c6{--c:var(--s6)}.c7{--c:var(--s7)}
svg{display:block;max-width:100%;height:auto}
svg text{font-family:var(--sans);font-size:12px;fill:var(--soft)}
svg .tick{font-size:11.5px;fill:var(--faint)}svg .name{fill:var(--soft)}
svg .end{text-anchor:end}svg .mid{text-anchor:middle}
svg .strong{font-size:15px;font-weight:600;fill:var(--ink)}
.chart{width:100%}
.chart .grid{stroke:var(--rule);stroke-width:1}.chart .axis{stroke:var(--faint);stroke-width:1}
.chart .level{stroke:var(--faint);stroke-width:1;stroke-dasharray:2 4}
.chart .cut{stroke:var(--faint);stroke-width:1;stroke-dasharray:1 3}
.chart .line{fill:none;stroke:var(--c);stroke-width:1.9;stroke-linejoin:round;stroke-linecap:round}
.chart .band{fill:var(--c);opacity:.14}.chart .whisker{stroke:var(--c);stroke-width:6;opacity:.2}
.chart .dot{fill:var(--c)}.chart .best{fill:var(--card);stroke:var(--c);stroke-width:2.4}
.bar{width:180px;min-width:120px}
.card .bar{width:100%;max-width:400px;margin:8px 0 6px}
.bar .track{stroke:var(--wash);stroke-width:8;stroke-linecap:round}.bar .base{stroke:var(--ink);stroke-width:1.5}
.bar.above{--b:var(--good)}.bar.level{--b:var(--even)}.bar.below{--b:var(--bad)}
.bar .range{fill:var(--b);opacity:.45}.bar .value{fill:var(--b)}
.graph .box{fill:var(--card);stroke:var(--rule);stroke-width:1.2}.graph .root{fill:var(--wash)}
.graph .edge{fill:none;stroke:var(--faint);stroke-width:1.6}.graph .head{fill:var(--faint)}
.graph .share{stroke:var(--wash);stroke-width:5;stroke-linecap:round}.graph .filled{stroke:var(--s0)}
.graph.upright{display:none;margin:0 auto}
.scroll{overflow-x:auto;margin:0 -4px;padding:0 4px}
table{border-collapse:collapse;width:100%;font-size:13.8px}
th{font-weight:500;color:var(--soft);text-align:left;white-space:nowrap;font-size:12.8px}
th,td{padding:7px 14px 7px 0;border-bottom:1px solid var(--rule);vertical-align:top}
tr:last-child td{border-bottom:0}
td.n,th.n{text-align:right;white-space:nowrap}td:last-child,th:last-child{padding-right:0}
td.w{min-width:180px}td.mid{vertical-align:middle}
td.p{font:12.5px/1.5 var(--mono);overflow-wrap:anywhere;min-width:260px}td.s{color:var(--soft)}
tr.sum td{border-top:1px solid var(--faint);font-weight:600}
tr.dim td{color:var(--faint)}
.chips{display:flex;flex-wrap:wrap;gap:5px 6px;margin:0;padding:0;list-style:none}
.chips li{background:var(--wash);border-radius:6px;padding:1px 8px;font-size:12.8px;overflow-wrap:anywhere}
.chips li i{font-style:normal;color:var(--soft);margin-left:.5em}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:5px 20px;margin:0;font-size:13.8px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}dd.p{font:12.5px/1.7 var(--mono)}
.panel dl{margin-top:14px}
.warn{background:var(--even-wash);border-radius:10px;padding:12px 18px;margin:0 0 16px}
.warn b{color:var(--even)}.warn ul{margin:4px 0 0;padding-left:18px}.warn li{overflow-wrap:anywhere}
.detail+.detail{margin-top:34px}
.detail>h3{font:600 19px/1.3 var(--serif);margin:26px 0 12px}
h4{font-size:14.5px;font-weight:600;margin:0}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px;align-items:start}
.panels .panel{margin:0;min-width:0}.panels .wide{grid-column:1/-1}
.panels .lead{font-size:13px;margin:2px 0 12px}.panels .note{color:var(--soft);font-size:13px;margin:8px 0 0}
.panels .chart{max-width:520px}
.map{max-width:none}.map .right{fill:var(--s0)}.map .wrong{fill:var(--bad)}.map .none{fill:var(--wash)}
.map .cell{font-size:11.5px;fill:var(--ink)}.map .inverse{fill:var(--card)}
.chart .fill{fill:var(--c)}.chart .faint{opacity:.5}
.bar.plain{--b:var(--s0)}
details summary{cursor:pointer;color:var(--soft);font-size:13px;padding:8px 0}
.examples{list-style:none;margin:0;padding:0;display:grid;gap:14px;
grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));align-items:start}
.examples li{background:var(--wash);border-radius:10px;padding:12px 14px;min-width:0}
.examples .where{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 12px;color:var(--faint);
font-size:12.3px;overflow-wrap:anywhere}
.examples .text{margin:6px 0 0;white-space:pre-wrap;overflow-wrap:anywhere;font-size:13.8px}
.panel .examples dl{margin-top:8px;padding-top:8px;border-top:1px solid var(--rule);gap:3px 14px;
grid-template-columns:max-content minmax(0,1fr)}
.panel .examples dd{white-space:pre-wrap;margin:0}
.panels td:first-child{white-space:nowrap}
footer{color:var(--faint);font-size:13px;padding-top:44px;padding-bottom:56px}
@media (max-width:760px){.graph.level{display:none}.graph.upright{display:block}}
@media (max-width:520px){main,header.top,footer{padding-left:16px;padding-right:16px}
header.top{padding-top:26px}h1{font-size:31px}.verdict{font-size:18px}section{margin-top:40px}
.panel,.card{padding:14px 14px}svg .tick,.chart text{font-size:13px}dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:8px}}
@media print{body{background:#fff}.panel,.card{break-inside:avoid}nav{display:none}}
"""
