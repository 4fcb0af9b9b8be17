'use strict';
// Analyses KQL with Microsoft's Kusto language service: a JSON document on stdin, the analyses on stdout (local/kqlcheck/__init__.py has the shapes).
//
// The service says nothing about an error inside of a stored function where that is called (its columns become of type unknown), so a body is analysed by
// itself, as the body of a let function, and a result column of unknown type counts as an error.
const fs = require('fs');
const path = require('path');

const packageDirectory = path.dirname(process.argv[2]);
require(path.join(packageDirectory, 'bridge.js'));
require(process.argv[2]);
const { Bridge, Kusto } = globalThis;
const symbols = Kusto.Language.Symbols;
const syntax = Kusto.Language.Syntax;

const TYPES = {
  string: 'String', int: 'Int', long: 'Long', real: 'Real', bool: 'Bool', datetime: 'DateTime', timespan: 'TimeSpan', guid: 'Guid',
  decimal: 'Decimal', dynamic: 'Dynamic',
};

function tableOf(name, columns) {
  const list = Object.entries(columns).map(([column, type]) => {
    if (!TYPES[type]) throw new Error(`${name}.${column}: unknown type ${type}`);
    return new symbols.ColumnSymbol(column, symbols.ScalarTypes[TYPES[type]], null, null, null, null);
  });
  return new symbols.TableSymbol.$ctor4(name, list);
}

function stateOf(tables, functions) {
  const members = [
    ...Object.entries(tables).map(([name, columns]) => tableOf(name, columns)),
    ...functions.map(f => new symbols.FunctionSymbol.$ctor16(f.name, `(${f.parameters})`, `{ ${f.body}\n }`, null)),
  ];
  const database = new symbols.DatabaseSymbol.ctor('workspace', members);
  const cluster = new symbols.ClusterSymbol.ctor('local', [database]);
  return Kusto.Language.GlobalState.Default.WithCluster(cluster).WithDatabase(database);
}

function items(list) {
  return Array.from({ length: list.Count }, (_, at) => list.getItem(at));
}

function kindOf(node) {
  return Bridge.Reflection.getTypeName(Bridge.getType(node));
}

function analyse(query, state) {
  const { head, tail } = query;
  const text = head + query.text + tail;
  const code = Kusto.Language.KustoCode.ParseAndAnalyze(text, state);
  const skipped = head.split('\n').length - 1;
  const findings = items(code.GetDiagnostics()).map(d => {
    const before = text.slice(0, d.Start).split('\n');
    return { code: d.Code, severity: d.Severity, message: d.Message, line: before.length - skipped, column: before[before.length - 1].length + 1 };
  });
  const result = code.ResultType;
  const columns = result && result.Columns ? items(result.Columns).map(c => [c.Name, c.Type.Name]) : [];
  const used = { tables: new Set(), calls: new Set(), operators: new Set(), symbols: new Set() };
  const own = new Set();
  syntax.SyntaxElement.WalkNodes(code.Syntax, node => {
    const type = kindOf(node);
    const referenced = node.ReferencedSymbol;
    if (referenced && kindOf(referenced) === 'TableSymbol' && referenced.Name) used.tables.add(referenced.Name);
    if (type === 'LetStatement') own.add(node.Name.SimpleName);
    if (type === 'FunctionCallExpression') used.calls.add(node.Name.SimpleName);
    else if (/Operator$|Statement$|^DynamicExpression$/.test(type)) used.operators.add(type);
    else if (/^(Binary|In|HasAny|HasAll|Between)Expression$/.test(type)) used.symbols.add(node.Operator.Text);
  });
  for (const name of own) used.calls.delete(name);
  const sorted = Object.fromEntries(Object.entries(used).map(([name, set]) => [name, [...set].sort()]));
  return { name: query.name, findings, columns, ...sorted };
}

const asked = JSON.parse(fs.readFileSync(0, 'utf8'));
const states = new Map();
const answers = asked.queries.map(query => {
  // The state is what takes long to make, so queries that see the same world share one.
  const key = JSON.stringify([query.source || null, query.without || null]);
  if (!states.has(key)) {
    const tables = query.source ? { source: query.source } : asked.tables;
    const functions = query.source ? [] : asked.functions.filter(f => f.name !== query.without);
    states.set(key, stateOf(tables, functions));
  }
  return analyse(query, states.get(key));
});
process.stdout.write(JSON.stringify(answers));
