#include "server/text/template_nodes.h"

#include <memory>
#include <utility>
#include <vector>

#include "server/text/chat_template.h"
#include "server/text/template_builtins.h"
#include "server/text/template_state.h"

namespace lorica {
namespace {

using jinja::context;
using jinja::is_val;
using jinja::mk_val;
using jinja::statement;
using jinja::statement_ptr;
using jinja::statements;
using jinja::value;

class Node : public jinja::expression {
 public:
  std::string type() const override { return "Guarded"; }
  value execute_impl(context& scope) const final {
    const RenderState::Frame frame;
    RenderState::Current().ChargeSteps(1);
    return Run(scope);
  }

 private:
  virtual value Run(context& scope) const = 0;
};

// A value that is known already, for the engine's nodes that are run on checked values.
struct Constant : jinja::expression {
  explicit Constant(value v) : known(std::move(v)) {}
  value execute_impl(context&) const override { return known; }
  value known;
};

statement_ptr Known(value v) { return std::make_unique<Constant>(std::move(v)); }

statement_ptr KnownCall(const std::string& name, const std::vector<value>& values) {
  if (values.size() == 1) return std::make_unique<jinja::identifier>(name);
  statements arguments;
  for (size_t i = 1; i < values.size(); ++i) arguments.push_back(Known(values[i]));
  return std::make_unique<jinja::call_expression>(std::make_unique<jinja::identifier>(name),
                                                  std::move(arguments));
}

void ExecuteInto(const statements& nodes, context& scope, std::vector<value>* values) {
  for (const auto& node : nodes) values->push_back(node->execute_impl(scope));
}

class NameNode : public Node {
 public:
  explicit NameNode(std::string name) : name_(std::move(name)) {}

 private:
  value Run(context& scope) const override {
    value found = scope.get_val(name_);
    if (!found->is_undefined()) return found;
    const value function = GlobalFunction(name_);
    return function != nullptr ? function : found;
  }
  std::string name_;
};

// Runs a node of the engine whose children are guarded and charges its result.
class ResultNode : public Node {
 public:
  explicit ResultNode(statement_ptr inner) : inner_(std::move(inner)) {}

 private:
  value Run(context& scope) const override { return Admit(inner_->execute_impl(scope), {}); }
  statement_ptr inner_;
};

// As ResultNode, where the parent writes the result out.
class OutputNode : public Node {
 public:
  explicit OutputNode(statement_ptr inner) : inner_(std::move(inner)) {}

 private:
  value Run(context& scope) const override {
    value result = inner_->execute_impl(scope);
    const bool written = is_val<jinja::value_string>(result) || is_val<jinja::value_array>(result);
    if (written) RenderState::Current().ChargeBytes(WeighValue(result).bytes);
    return Admit(result, {});
  }
  statement_ptr inner_;
};

// The body of a block as one text.
class BodyNode : public Node {
 public:
  explicit BodyNode(statements body) : body_(std::move(body)) {}

 private:
  value Run(context& scope) const override {
    std::vector<value> results;
    ExecuteInto(body_, scope, &results);
    const value all = mk_val<jinja::value_array>(std::move(results));
    return jinja::runtime::gather_string_parts(all);
  }
  statements body_;
};

class BinaryNode : public Node {
 public:
  BinaryNode(jinja::token op, statement_ptr left, statement_ptr right)
      : op_(std::move(op)), left_(std::move(left)), right_(std::move(right)) {}

 private:
  value Run(context& scope) const override {
    value left = left_->execute_impl(scope);
    if (op_.value == "and") return left->as_bool() ? right_->execute_impl(scope) : left;
    if (op_.value == "or") return left->as_bool() ? left : right_->execute_impl(scope);
    value right = right_->execute_impl(scope);
    CheckOperator(op_.value, left, right);
    const jinja::binary_expression known(op_, Known(left), Known(right));
    return Admit(known.execute_impl(scope), {left, right});
  }
  jinja::token op_;
  statement_ptr left_, right_;
};

class FilterNode : public Node {
 public:
  FilterNode(statement_ptr operand, std::string name, statements arguments)
      : operand_(std::move(operand)), name_(std::move(name)), arguments_(std::move(arguments)) {}

 private:
  value Run(context& scope) const override {
    std::vector<value> values{operand_->execute_impl(scope)};
    ExecuteInto(arguments_, scope, &values);
    return ApplyBuiltin(name_, values, [&] {
      return jinja::filter_expression(Known(values[0]), KnownCall(name_, values))
          .execute_impl(scope);
    });
  }
  statement_ptr operand_;
  std::string name_;
  statements arguments_;
};

class TestNode : public Node {
 public:
  TestNode(statement_ptr operand, bool negate, std::string name, statements arguments)
      : operand_(std::move(operand)),
        negate_(negate),
        name_(std::move(name)),
        arguments_(std::move(arguments)) {}

 private:
  value Run(context& scope) const override {
    std::vector<value> values{operand_->execute_impl(scope)};
    ExecuteInto(arguments_, scope, &values);
    CheckTest(name_, values);
    return jinja::test_expression(Known(values[0]), negate_, KnownCall(name_, values))
        .execute_impl(scope);
  }
  statement_ptr operand_;
  bool negate_;
  std::string name_;
  statements arguments_;
};

class CallNode : public Node {
 public:
  CallNode(statement_ptr callee, statements arguments, int names)
      : callee_(std::move(callee)), arguments_(std::move(arguments)), names_(names) {}

 private:
  value Run(context& scope) const override {
    std::vector<value> values{nullptr};
    ExecuteInto(arguments_, scope, &values);
    const value callee = callee_->execute_impl(scope);
    const auto* function = jinja::cast_val<jinja::value_func>(callee);
    if (function == nullptr) throw std::runtime_error("Callee is not a function");
    jinja::func_args arguments(scope);
    for (size_t i = 1; i < values.size(); ++i) arguments.push_back(values[i]);
    if (function->arg0 == nullptr) {
      RenderState::Current().ChargeSteps(names_);
      return function->invoke(arguments);
    }
    values[0] = function->arg0;
    return ApplyBuiltin(function->name, values, [&] { return function->invoke(arguments); });
  }
  statement_ptr callee_;
  statements arguments_;
  int names_;
};

// What a {% call %} block calls: a macro, whose body is guarded; a builtin would not be.
class MacroNode : public Node {
 public:
  MacroNode(statement_ptr inner, int names) : inner_(std::move(inner)), names_(names) {}

 private:
  value Run(context& scope) const override {
    value callee = inner_->execute_impl(scope);
    const auto* function = jinja::cast_val<jinja::value_func>(callee);
    if (function == nullptr || function->arg0 != nullptr) {
      RenderState::Current().Stop("a call block calls what is no macro");
    }
    RenderState::Current().ChargeSteps(kCallBlockCopies * names_);
    return callee;
  }
  static constexpr int kCallBlockCopies = 4;
  statement_ptr inner_;
  int names_;
};

class MemberNode : public Node {
 public:
  MemberNode(statement_ptr object, statement_ptr property, bool computed)
      : object_(std::move(object)), property_(std::move(property)), computed_(computed) {
    if (auto* slice = jinja::cast_stmt<jinja::slice_expression>(property_)) {
      slice_.push_back(std::move(slice->start_expr));
      slice_.push_back(std::move(slice->stop_expr));
      slice_.push_back(std::move(slice->step_expr));
    }
  }

  statement_ptr& property() { return property_; }
  std::vector<statement_ptr>& slice() { return slice_; }
  bool computed() const { return computed_; }

 private:
  value Run(context& scope) const override {
    const value object = object_->execute_impl(scope);
    if (is_val<jinja::value_string>(object)) {
      RenderState::Current().ChargeBytes(WeighValue(object).bytes);
    }
    const jinja::member_expression known(Known(object), Property(scope), computed_);
    value result = known.execute_impl(scope);
    const bool made = !slice_.empty() || is_val<jinja::value_string>(object);
    return made ? Admit(result, {object}) : result;
  }

  statement_ptr Property(context& scope) const {
    if (!slice_.empty()) return Slice(scope);
    if (computed_) return Known(property_->execute_impl(scope));
    if (const auto* name = jinja::cast_stmt<jinja::identifier>(property_)) {
      return std::make_unique<jinja::identifier>(name->val);
    }
    if (const auto* index = jinja::cast_stmt<jinja::integer_literal>(property_)) {
      return std::make_unique<jinja::integer_literal>(index->val);
    }
    throw std::runtime_error("Static member property must be an identifier");
  }

  statement_ptr Slice(context& scope) const {
    statement_ptr bounds[3];
    for (size_t i = 0; i < 3; ++i) {
      if (slice_[i] == nullptr) continue;
      const value bound = slice_[i]->execute_impl(scope);
      constexpr int64_t kBoundMax = int64_t{1} << 31;  // beyond it the engine's loop overflows
      const bool served = is_val<jinja::value_int>(bound) && bound->as_int() <= kBoundMax &&
                          bound->as_int() >= -kBoundMax;
      if (!served) RenderState::Current().Stop("it slices beyond what is served");
      bounds[i] = Known(bound);
    }
    return std::make_unique<jinja::slice_expression>(std::move(bounds[0]), std::move(bounds[1]),
                                                     std::move(bounds[2]));
  }

  statement_ptr object_, property_;
  bool computed_;
  std::vector<statement_ptr> slice_;  // start, stop, step; empty: no slice
};

// The engine copies every variable when it enters a macro, and at each turn of a loop, where
// it makes the loop object too.
constexpr int kTurnSteps = 16;

class LoopItemsNode : public Node {
 public:
  LoopItemsNode(statement_ptr inner, int names) : inner_(std::move(inner)), names_(names) {}

 private:
  value Run(context& scope) const override {
    value items = inner_->execute_impl(scope);
    const int64_t turns = static_cast<int64_t>(items->val_arr.size() + items->val_obj.size());
    RenderState::Current().ChargeSteps((turns + 1) * (kTurnSteps + names_));
    return items;
  }
  statement_ptr inner_;
  int names_;
};

class StoredNode : public Node {
 public:
  explicit StoredNode(statement_ptr inner) : inner_(std::move(inner)) {}

 private:
  value Run(context& scope) const override {
    value stored = inner_->execute_impl(scope);
    CheckStorable(stored);
    return stored;
  }
  statement_ptr inner_;
};

class NamespaceNode : public Node {
 public:
  explicit NamespaceNode(statement_ptr inner) : inner_(std::move(inner)) {}

 private:
  value Run(context& scope) const override {
    value object = inner_->execute_impl(scope);
    if (!is_val<NamespaceValue>(object.get())) {
      RenderState::Current().Stop("it assigns to an attribute of what is no namespace");
    }
    return object;
  }
  statement_ptr inner_;
};

class Guard {
 public:
  explicit Guard(int names) : names_(names) {}

  void Body(statements* body) {
    for (auto& node : *body) {
      Any(&node);
      Wrap<OutputNode>(&node);
    }
  }

 private:
  template <typename Wrapper, typename... Arguments>
  static void Wrap(statement_ptr* node, Arguments... arguments) {
    const size_t place = (*node)->pos;
    *node = std::make_unique<Wrapper>(std::move(*node), arguments...);
    (*node)->pos = place;
  }

  template <typename Made>
  static void Become(statement_ptr* node, std::unique_ptr<Made> made) {
    made->pos = (*node)->pos;
    *node = std::move(made);
  }

  void All(statements* nodes) {
    for (auto& node : *nodes) Any(&node);
  }

  // Guards a node where its parent only executes it; null stays null.
  void Any(statement_ptr* node) {
    if (*node == nullptr) return;
    if (!Statement(node) && !Operation(node) && !Container(node) && !Simple(node)) {
      throw std::runtime_error("the guard knows no " + (*node)->type());
    }
  }

  bool Statement(statement_ptr* node) {
    if (auto* branch = jinja::cast_stmt<jinja::if_statement>(*node)) {
      Any(&branch->test);
      Body(&branch->body);
      Body(&branch->alternate);
    } else if (auto* loop = jinja::cast_stmt<jinja::for_statement>(*node)) {
      Loop(loop);
    } else if (auto* set = jinja::cast_stmt<jinja::set_statement>(*node)) {
      Set(set);
    } else if (auto* macro = jinja::cast_stmt<jinja::macro_statement>(*node)) {
      Parameters(&macro->args);
      Body(&macro->body);
    } else if (auto* call = jinja::cast_stmt<jinja::call_statement>(*node)) {
      Parameters(&call->caller_args);
      Body(&call->body);
      auto* called = jinja::cast_stmt<jinja::call_expression>(call->call);
      Any(&called->callee);
      Wrap<MacroNode>(&called->callee, names_);
      All(&called->args);
    } else if (auto* block = jinja::cast_stmt<jinja::filter_statement>(*node)) {
      Body(&block->body);
      Filter(node, std::make_unique<BodyNode>(std::move(block->body)), &block->filter);
    } else {
      return false;
    }
    return true;
  }

  void Loop(jinja::for_statement* loop) {
    auto* selection = jinja::cast_stmt<jinja::select_expression>(loop->iterable);
    statement_ptr* items = selection == nullptr ? &loop->iterable : &selection->lhs;
    if (selection != nullptr) Any(&selection->test);
    Any(items);
    Wrap<LoopItemsNode>(items, names_);
    Body(&loop->body);
    Body(&loop->default_block);
  }

  void Set(jinja::set_statement* set) {
    Any(&set->val);
    Body(&set->body);
    if (auto* member = jinja::cast_stmt<jinja::member_expression>(set->assignee)) {
      Any(&member->object);
      Wrap<NamespaceNode>(&member->object);
      if (set->val != nullptr) Wrap<StoredNode>(&set->val);
    }
  }

  void Parameters(statements* parameters) {
    for (auto& parameter : *parameters) {
      auto* named = jinja::cast_stmt<jinja::keyword_argument_expression>(parameter);
      if (named != nullptr) Any(&named->val);
    }
  }

  bool Operation(statement_ptr* node) {
    if (auto* binary = jinja::cast_stmt<jinja::binary_expression>(*node)) {
      Any(&binary->left);
      Any(&binary->right);
      Become(node, std::make_unique<BinaryNode>(binary->op, std::move(binary->left),
                                                std::move(binary->right)));
    } else if (auto* filter = jinja::cast_stmt<jinja::filter_expression>(*node)) {
      Any(&filter->operand);
      Filter(node, std::move(filter->operand), &filter->filter);
    } else if (auto* test = jinja::cast_stmt<jinja::test_expression>(*node)) {
      Any(&test->operand);
      auto [name, arguments] = NameAndArguments(&test->test);
      Become(node, std::make_unique<TestNode>(std::move(test->operand), test->negate,
                                              std::move(name), std::move(arguments)));
    } else if (auto* call = jinja::cast_stmt<jinja::call_expression>(*node)) {
      Any(&call->callee);
      All(&call->args);
      Become(node,
             std::make_unique<CallNode>(std::move(call->callee), std::move(call->args), names_));
    } else if (auto* member = jinja::cast_stmt<jinja::member_expression>(*node)) {
      Member(node, member);
    } else {
      return false;
    }
    return true;
  }

  void Filter(statement_ptr* node, statement_ptr operand, statement_ptr* filter) {
    auto [name, arguments] = NameAndArguments(filter);
    Become(node,
           std::make_unique<FilterNode>(std::move(operand), std::move(name), std::move(arguments)));
  }

  std::pair<std::string, statements> NameAndArguments(statement_ptr* node) {
    statements arguments;
    statement_ptr* name = node;
    if (auto* call = jinja::cast_stmt<jinja::call_expression>(*node)) {
      All(&call->args);
      arguments = std::move(call->args);
      name = &call->callee;
    }
    const auto* identifier = jinja::cast_stmt<jinja::identifier>(*name);
    if (identifier == nullptr) throw std::runtime_error("a filter or test has no name");
    return {identifier->val, std::move(arguments)};
  }

  void Member(statement_ptr* node, jinja::member_expression* member) {
    Any(&member->object);
    auto made = std::make_unique<MemberNode>(std::move(member->object), std::move(member->property),
                                             member->computed);
    for (auto& bound : made->slice()) Any(&bound);
    if (made->computed() && made->slice().empty()) Any(&made->property());
    Become(node, std::move(made));
  }

  bool Container(statement_ptr* node) {
    if (auto* array = jinja::cast_stmt<jinja::array_literal>(*node)) {
      All(&array->val);
    } else if (auto* tuple = jinja::cast_stmt<jinja::tuple_literal>(*node)) {
      All(&tuple->val);
    } else if (auto* object = jinja::cast_stmt<jinja::object_literal>(*node)) {
      for (auto& [key, item] : object->val) {
        Any(&key);
        Any(&item);
      }
    } else {
      return false;
    }
    Wrap<ResultNode>(node);
    return true;
  }

  bool Simple(statement_ptr* node) {
    if (const auto* name = jinja::cast_stmt<jinja::identifier>(*node)) {
      Become(node, std::make_unique<NameNode>(name->val));
      return true;
    }
    if (auto* named = jinja::cast_stmt<jinja::keyword_argument_expression>(*node)) {
      Any(&named->val);
    } else if (auto* unary = jinja::cast_stmt<jinja::unary_expression>(*node)) {
      Any(&unary->argument);
    } else if (auto* ternary = jinja::cast_stmt<jinja::ternary_expression>(*node)) {
      Any(&ternary->condition);
      Any(&ternary->true_expr);
      Any(&ternary->false_expr);
    } else if (auto* selection = jinja::cast_stmt<jinja::select_expression>(*node)) {
      Any(&selection->lhs);
      Any(&selection->test);
    } else if (!Leaf(*node)) {
      return false;
    }
    Wrap<ResultNode>(node);
    return true;
  }

  static bool Leaf(const statement_ptr& node) {
    return jinja::is_stmt<jinja::string_literal>(node) ||
           jinja::is_stmt<jinja::integer_literal>(node) ||
           jinja::is_stmt<jinja::float_literal>(node) ||
           jinja::is_stmt<jinja::comment_statement>(node) ||
           jinja::is_stmt<jinja::noop_statement>(node) ||
           jinja::is_stmt<jinja::break_statement>(node) ||
           jinja::is_stmt<jinja::continue_statement>(node) ||
           jinja::is_stmt<jinja::blank_expression>(node);
  }

  int names_;
};

}  // namespace

void GuardProgram(jinja::program* program, int names) { Guard(names).Body(&program->body); }

}  // namespace lorica
