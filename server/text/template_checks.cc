#include "server/text/template_checks.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "server/text/chat_template.h"

namespace lorica {
namespace {

using jinja::token;

class TokenWalk {
 public:
  absl::Status Take(const token& next) {
    if (next.t == token::open_statement || next.t == token::open_expression) StartBlock();
    if (first_in_statement_ && next.t == token::identifier) Keyword(next.value);
    first_in_statement_ = next.t == token::open_statement;
    assigns_ = assigns_ || (next.t == token::equals && brackets_ == 0);
    if (next.t == token::close_statement && setting_ && !assigns_) OpenBlock();
    Brackets(next.t);
    operators_ += IsOperator(next);
    deepest_ = std::max(deepest_, Depth());
    return Verdict();
  }

 private:
  void StartBlock() {
    brackets_ = operators_ = 0;
    setting_ = assigns_ = false;
  }

  // An {% elif %} is nested in the {% if %} it follows, as the parser sees it.
  void Keyword(const std::string& name) {
    static const auto* const openers =
        new absl::flat_hash_set<std::string>{"if", "for", "macro", "call", "filter"};
    setting_ = name == "set";
    if (openers->contains(name)) OpenBlock();
    if (name == "elif" && !blocks_.empty()) ++blocks_.back();
    if (name.rfind("end", 0) == 0 && name != "endgeneration" && !blocks_.empty())
      blocks_.pop_back();
  }

  void OpenBlock() { blocks_.push_back(1); }

  void Brackets(token::type type) {
    const bool opens = type == token::open_paren || type == token::open_square_bracket ||
                       type == token::open_curly_bracket;
    const bool closes = type == token::close_paren || type == token::close_square_bracket ||
                        type == token::close_curly_bracket;
    brackets_ = std::max(0, brackets_ + opens - closes);
  }

  static bool IsOperator(const token& next) {
    static const auto* const words =
        new absl::flat_hash_set<std::string>{"and", "else", "if", "in", "is", "not", "or"};
    switch (next.t) {
      case token::identifier:
        return words->contains(next.value);
      case token::dot:
      case token::pipe:
      case token::open_paren:
      case token::open_square_bracket:
      case token::open_curly_bracket:
      case token::additive_binary_operator:
      case token::multiplicative_binary_operator:
      case token::comparison_binary_operator:
      case token::unary_operator:
        return true;
      default:
        return false;
    }
  }

  int Depth() const {
    int depth = brackets_;
    for (const int levels : blocks_) depth += levels;
    return depth;
  }

  absl::Status Verdict() const {
    if (deepest_ > kTemplateNestingMax) {
      return absl::FailedPreconditionError(
          absl::StrCat("the chat template nests blocks and brackets deeper than ",
                       kTemplateNestingMax, ": it is not served"));
    }
    if (operators_ > kTemplateOperatorsMax) {
      return absl::FailedPreconditionError(
          absl::StrCat("the chat template has more than ", kTemplateOperatorsMax,
                       " operators in one block: it is not served"));
    }
    return absl::OkStatus();
  }

  std::vector<int> blocks_;  // open ones; how many levels each is worth
  int brackets_ = 0;         // open in this block
  int operators_ = 0;        // of this block
  int deepest_ = 0;
  bool first_in_statement_ = false;
  bool setting_ = false;
  bool assigns_ = false;
};

}  // namespace

absl::Status CheckTemplateTokens(const jinja::lexer_result& source) {
  TokenWalk walk;
  for (const token& next : source.tokens) {
    if (auto status = walk.Take(next); !status.ok()) return status;
  }
  if (CountTemplateNames(source) > kTemplateNamesMax) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the chat template uses more than ", kTemplateNamesMax, " names: it is not served"));
  }
  return absl::OkStatus();
}

int CountTemplateNames(const jinja::lexer_result& source) {
  absl::flat_hash_set<std::string> names;
  for (const token& next : source.tokens) {
    if (next.t == token::identifier) names.insert(next.value);
  }
  return static_cast<int>(names.size());
}

}  // namespace lorica
